"""The wheel in an empty environment: a light client, then a server that classifies a call."""

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS = ("pyproject.toml", "README.md", "LICENSE", "streamer", "proto")
HEAVY = ("onnxruntime", "uvloop", "webrtcvad", "pydantic", "structlog", "torch", "model", "train")
MAX_BYTES = 12_000_000
CLEAN = {
    name: value
    for name, value in os.environ.items()
    if name not in {"PYTHONPATH", "VIRTUAL_ENV"} and not name.startswith("VOICECOHORT_")
}


def run(*command, seconds=180, **variables):
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=seconds,
        cwd="/",
        env={**CLEAN, **variables},
        check=False,
    )


class Installed:
    """A virtual environment with the wheel in it."""

    def __init__(self, folder, wheel):
        venv.create(folder, with_pip=True)
        self.bin, self._wheel = folder / "bin", wheel
        self.install()

    def install(self, extra=""):
        done = run(
            *(self.bin / "python", "-m", "pip", "install", "--quiet", "--no-input"),
            *("--constraint", ROOT / "constraints.txt", f"{self._wheel}{extra}"),
        )
        if "No matching distribution" in done.stderr or "ConnectionError" in done.stderr:
            pytest.skip("no package index can be reached: the wheel was NOT installed")
        assert done.returncode == 0, done.stderr

    def python(self, code):
        return run(self.bin / "python", "-c", code)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(
                ROOT / part, source / part, ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
            )
        else:
            shutil.copy(ROOT / part, source)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    done = run(*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", out, source)
    if "No matching distribution" in done.stderr:
        pytest.skip("no package index can be reached: the wheel was NOT built")
    assert done.returncode == 0, done.stderr
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    return Installed(tmp_path_factory.mktemp("empty") / "venv", wheel)


def test_contents(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0].split("-")[0] for name in names}
    assert tops == {"streamer", "voicecohort"}
    for part in (
        "streamer/py.typed",
        "streamer/models/student-int8.onnx",
        "streamer/demo/dialogue.wav",
        "streamer/rpc/voicecohort_pb2.pyi",
    ):
        assert part in names
    proto = [name for name in names if name.endswith(".proto")]
    assert sorted(name.split("/share/")[1] for name in proto) == [
        "voicecohort/proto/voicecohort/v1/trunk.proto",
        "voicecohort/proto/voicecohort/v1/voicecohort.proto",
    ]
    assert wheel.stat().st_size < MAX_BYTES


def test_client_is_light(environment):
    """And what it lacks is one line, exit 2."""
    found = environment.python(
        f"import importlib.util as i; print([n for n in {HEAVY!r} if i.find_spec(n)])"
    )
    assert (found.returncode, found.stdout.strip()) == (0, "[]"), found.stderr
    assert environment.python("import streamer.client").returncode == 0
    assert run(environment.bin / "voicecohort-client", "--help").returncode == 0
    for command in (
        [environment.bin / "voicecohort-serve", "--help"],
        [environment.bin / "python", "-m", "streamer.security", "token"],
        [environment.bin / "python", "-m", "streamer.process.probe", "127.0.0.1:1"],
    ):
        done = run(*command)
        (line,) = done.stderr.splitlines()
        assert done.returncode == 2
        assert line.endswith("pip install 'voicecohort[server]'")


def test_server_classifies_a_call(environment, demo_file):
    environment.install("[server]")
    command = [environment.bin / "voicecohort-serve", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(
        [str(part) for part in command], stderr=subprocess.PIPE, text=True, cwd="/", env=CLEAN
    ) as server:
        try:
            events = (json.loads(line) for line in server.stderr)
            target = next(event["address"] for event in events if event["event"] == "serving")
            done = run(
                environment.bin / "voicecohort-client", demo_file, "--json", "--target", target
            )
        finally:
            server.terminate()
            server.stderr.read()
    assert done.returncode == 0, done.stderr
    responses = [json.loads(line) for line in done.stdout.splitlines()]
    finals = [r["prediction"] for r in responses if r.get("prediction", {}).get("final")]
    assert sorted(final["gender"]["label"] for final in finals) == ["female", "male"]
    assert server.returncode == 0
