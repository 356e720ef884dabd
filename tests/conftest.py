"""What every test may use: the shipped student, the demo call, a running server, a made corpus."""

from __future__ import annotations

import asyncio
import csv
import io
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, settings
from rich.console import Console
from xdist.scheduler import LoadScopeScheduling

from streamer.client.audio_file import read_as_call
from streamer.demo.__main__ import CALL
from streamer.inference.model import OnnxModel
from streamer.process.local_server import local_server

# A loaded machine is slow, which is not a failure; the runs' size is bounded by max_examples.
settings.register_profile(
    "voicecohort",
    deadline=None,
    max_examples=25,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("voicecohort")

# Processes that tests start compile the project once, not each for itself.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

_UNDER_LOAD = tuple(
    f"tests/{prefix}"
    for prefix in (
        "deploy/",
        "fuzz/",
        "packaging/",
        "benchmarks/",
        *(f"streamer/{name}" for name in ["client/", "process/test_workers."]),
        *(f"streamer/{name}." for name in ["checkpoint/test_survival", "inference/test_hot_swap"]),
    )
)


class Sharing(LoadScopeScheduling):
    """Where two processes share the tests (make test), one has all that put servers under load.

    Two servers under load would take the cores from each other, and refuse calls. All others are
    shared out by file, so that what a file prepares is prepared once.
    """

    def _split_scope(self, nodeid):
        path = nodeid.partition("::")[0]
        return "under load" if path.startswith(_UNDER_LOAD) else path


@pytest.hookimpl(optionalhook=True)  # pytest runs without xdist too
def pytest_xdist_make_scheduler(config, log):
    return Sharing(config, log)


@pytest.fixture(scope="session")
def student():
    """The shipped student, on the CPU. Its weights are of no concern to any test."""
    return OnnxModel(provider="cpu")


@pytest.fixture(scope="session")
def demo_file():
    """Path of the demo call: two channels of mu-law at 8 kHz."""
    return CALL


@pytest.fixture(scope="session")
def demo_call(demo_file):
    """The demo call as a gateway would deliver it; `data` are its bytes."""
    return read_as_call(demo_file)


@pytest.fixture(scope="session")
def server():
    """One server process with default settings for all tests that only talk to it."""
    with local_server("--provider", "cpu") as running:
        yield running


@pytest.fixture(scope="session")
def run_async():
    """Run a coroutine, for at most a minute, on the one loop that all tests share.

    gRPC's poller serves every loop of the process, also those that are closed.
    """
    with asyncio.Runner() as runner:

        async def limited(coroutine):
            async with asyncio.timeout(60):
                return await coroutine

        yield lambda coroutine: runner.run(limited(coroutine))


FIELDS = [
    "id",
    "corpus",
    "speaker",
    "gender",
    "age",
    "age_band",
    "language",
    "seconds",
    "split",
    "licence",
    "path",
]


def voiced(pitch: float, seconds: float, seed: int, rate: int = 16000) -> np.ndarray:
    """Harmonics with syllables, enough for the speech gate to take it for speech."""
    random = np.random.default_rng(seed)
    t = np.arange(int(seconds * rate)) / rate
    wave = sum(np.sin(2 * np.pi * pitch * k * t + random.uniform(0, 6)) / k for k in range(1, 20))
    return 0.05 * wave * (1 + 0.9 * np.sin(2 * np.pi * 4 * t)) + 0.002 * random.standard_normal(
        len(t)
    )


def make_manifest(folder: Path, count: int) -> Path:
    """``count`` utterances to train on, half as many for dev, of one to three seconds."""
    bands = ("child", "20s", "40s", "60+", "")
    rows = []
    for split, many in (("train", count), ("dev", count // 2)):
        for n in range(many):
            gender = ("female", "male")[n // 2 % 2]
            name = f"{split}-{n}"
            pitch = (210 if gender == "female" else 110) + n
            seconds = (1.0, 2.0, 3.0)[n % 3]
            soundfile.write(folder / f"{name}.wav", voiced(pitch, seconds, n), 16000)
            row = [name, "made", f"s{n // 2}-{split}", gender, "", bands[n // 2 % 5], "en", seconds]
            rows.append([*row, split, "CC0", f"{name}.wav"])
    with (folder / "m.tsv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerow(FIELDS)
        writer.writerows(rows)
    return folder / "m.tsv"


@pytest.fixture(scope="session")
def make_prepared():
    """Make and prepare a corpus of ``count`` training utterances in a folder."""
    from train.prepare import Prepare, prepare  # noqa: PLC0415 - tests of the server need no torch

    def make(folder: Path, count: int) -> Path:
        folder.mkdir(parents=True)
        words = ["tsv", str(make_manifest(folder, count)), str(folder / "prepared"), "--jobs", "1"]
        prepare(Prepare(_cli_parse_args=words), Console(file=io.StringIO()))
        return folder / "prepared"

    return make


@pytest.fixture(scope="session")
def prepared(make_prepared, tmp_path_factory) -> Path:
    return make_prepared(tmp_path_factory.mktemp("corpus") / "made", count=20)


@pytest.fixture(scope="session")
def sharded(prepared, tmp_path_factory) -> Path:
    from train.shard import write_shards  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("shards")
    write_shards(prepared, folder, clips=6, jobs=1)
    return folder
