"""Coverage-guided fuzzing of one target by atheris (libFuzzer), in a process of its own."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import mmap
import re
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import structlog
from targets import load

HERE = Path(__file__).parent
INPUT_SECONDS = 60
"""An input that takes longer is a hang."""
MEMORY_MB = 2048
"""A process that takes more has a leak, or believed an input."""
STARTED = re.compile(r"INITED\s+cov: (\d+)")
REACHED = re.compile(r"\bcov: (\d+) ft: (\d+)")


def available() -> bool:
    """Whether atheris is installed."""
    return importlib.util.find_spec("atheris") is not None


class Meter:
    """Inputs so far and the longest one's nanoseconds, in a file: libFuzzer never returns."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 16)

    @property
    def read(self) -> tuple[int, int]:
        """Inputs and nanoseconds."""
        inputs, longest = struct.unpack("QQ", self._memory[:16])
        return inputs, longest

    def count(self, run: Callable[[bytes], None], data: bytes) -> None:
        """Run one input."""
        began = time.monotonic_ns()
        try:
            run(data)
        finally:
            inputs, longest = self.read
            took = time.monotonic_ns() - began
            self._memory[:16] = struct.pack("QQ", inputs + 1, max(longest, took))


def child(name: str, meter: Path, flags: list[str]) -> None:
    """Fuzz in this process, which does not come back from it."""
    import atheris  # noqa: PLC0415 - not everywhere

    quiet()
    with atheris.instrument_imports(include=["streamer"], exclude=["streamer.rpc"]):
        target = load(name)
    counting = Meter(meter)
    # Whatever is built once is built before inputs are timed.
    target.run(b"")
    atheris.Setup([sys.argv[0], *flags], lambda data: counting.count(target.run, data))
    atheris.Fuzz()


def quiet() -> None:
    """Log nothing: millions of calls begin and end."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def fuzz(name: str, runs: int, seconds: int, seed: int, crashes: Path) -> dict[str, object]:
    """Fuzz one target; what came of it.

    Args:
        name: of the target.
        runs: inputs at most.
        seconds: at most.
        seed: of the mutations.
        crashes: folder for inputs that show a defect.

    Returns:
        ``inputs`` that ran, ``seconds``, ``per_second``, ``coverage`` (edges of ``streamer``),
        ``coverage_of_seeds``, ``features``, ``longest_input_s``, ``crashes`` (paths),
        ``report`` (end of the output, if there are any).
    """
    target = load(name)
    crashes.mkdir(parents=True, exist_ok=True)
    before = set(crashes.iterdir())
    with tempfile.TemporaryDirectory(prefix="fuzz") as folder:
        corpus, meter = Path(folder, "corpus"), Path(folder, "meter")
        corpus.mkdir()
        meter.write_bytes(bytes(16))
        for data in target.seeds():
            (corpus / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
        flags = [
            f"-runs={runs}",
            f"-max_total_time={seconds}",
            f"-seed={seed}",
            f"-max_len={target.longest}",
            f"-timeout={INPUT_SECONDS}",
            f"-rss_limit_mb={MEMORY_MB}",
            f"-artifact_prefix={crashes}/{name}-",
            str(corpus),
        ]
        began = time.monotonic()
        command = [sys.executable, str(HERE), "--child", name, str(meter), *flags]
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False
        )
        took = time.monotonic() - began
        inputs, longest = Meter(meter).read
        started = STARTED.search(done.stderr)
        reached = REACHED.findall(done.stderr)
    found = sorted(str(path) for path in set(crashes.iterdir()) - before)
    result: dict[str, object] = {
        "inputs": inputs,
        "seconds": round(took, 1),
        "per_second": round(inputs / took, 1),
        "coverage": int(reached[-1][0]) if reached else 0,
        "coverage_of_seeds": int(started[1]) if started else 0,
        "features": int(reached[-1][1]) if reached else 0,
        "longest_input_s": round(longest / 1e9, 4),
        "crashes": found,
    }
    if found or done.returncode:
        result["crashes"] = found or [f"ended with {done.returncode}"]
        result["report"] = (done.stdout + done.stderr)[-4000:]
    return result
