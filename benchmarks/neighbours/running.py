"""Environments and child processes of what we compare with; failures are :class:`Unavailable`."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from neighbours.catalogue import Environment

BENCHMARKS = Path(__file__).resolve().parents[1]
THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)
INSTALL_SECONDS = 1200
ANSWER_SECONDS = 900


class Unavailable(Exception):
    """A peer cannot run; the message is its row's reason, one line."""


def one_line(text: str, limit: int = 300) -> str:
    """The last line that says something, without paths of this machine's folders."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")]
    line = (errors or lines or ["no message"])[-1]
    for folder in (str(BENCHMARKS.parent), str(Path.home())):
        line = line.replace(folder, "…")
    return line if len(line) <= limit else line[: limit - 1] + "…"


def command_environment() -> dict[str, str]:
    """One thread for every library, our packages in reach, nothing else of the caller's paths."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONHOME"}
    paths = os.pathsep.join((str(BENCHMARKS), str(BENCHMARKS.parent)))
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "", "PYTHONSAFEPATH": "1"}
    return {**kept, **dict.fromkeys(THREADS, "1"), **quiet, "PYTHONPATH": paths}


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter
            command,
            env=command_environment(),
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"not installed: {one_line(str(error))}") from error
    if done.returncode:
        raise Unavailable(f"not installed: {one_line(done.stderr or done.stdout)}")


def interpreter(environment: Environment | None, folder: Path) -> Path:
    """Python of ``environment`` under ``folder``, made there if it is not yet.

    Raises:
        Unavailable: pip or venv failed.
    """
    if environment is None:
        return Path(sys.executable)
    home = folder.resolve() / environment.name
    python = home / "bin" / "python"
    stamp = home / "installed.json"
    wanted = json.dumps([*environment.pins, *environment.bare, sys.version.split()[0]])
    if stamp.is_file() and stamp.read_text() == wanted:
        return python
    shutil.rmtree(home, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(home)])
    if environment.on_ours:
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        path = home / "lib" / version / "site-packages" / "ours.pth"
        path.write_text(sysconfig.get_path("purelib") + "\n")
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if environment.pins:
        _run([*pip, *environment.pins])
    if environment.bare:
        _run([*pip, "--no-deps", *environment.bare])
    stamp.write_text(wanted)
    return python


def ecapa_file(environment: Environment, folder: Path) -> Path:
    """The ONNX file that the embedding runtimes are fed, made once.

    Raises:
        Unavailable: SpeechBrain cannot be installed, or cannot be exported.
    """
    path = folder.resolve() / "ecapa512.onnx"
    if not path.is_file():
        _run([str(interpreter(environment, folder)), "-m", "neighbours.make_ecapa", str(path)])
    return path


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """Processes started inside inherit this core, from before their first import."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Child:
    """A peer's process, loaded; ``ready`` is the first thing it said.

    Args:
        module: under ``neighbours``.
        python: interpreter of the peer's environment.
        arguments: command line after the module.
        core: that it is kept to.

    Raises:
        Unavailable: it could not load; also from :meth:`ask`.
    """

    def __init__(self, module: str, python: Path, arguments: list[str], core: int) -> None:
        self._complaints = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - until stop
        with on_core(core):
            self._process = subprocess.Popen(  # noqa: S603 - as above
                [str(python), "-m", f"neighbours.{module}", *arguments],
                env=command_environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._complaints,
                text=True,
            )
        try:
            self.ready = self._answer()
        except Unavailable:
            self.stop()
            raise
        assert self.ready["cores"] == [core], "a library widened what its process inherited"
        self.version: str = self.ready["version"]

    def round(self) -> dict[str, Any]:
        """One round over all calls: ``cpu_s``, ``call_s`` and ``predictions``."""
        return self.ask("go")

    def ask(self, line: str) -> dict[str, Any]:
        """A line in, a line of JSON out."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise Unavailable("its process died") from error
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        watch = threading.Timer(ANSWER_SECONDS, self._process.kill)
        watch.start()
        try:
            line = self._process.stdout.readline()
        finally:
            watch.cancel()
        if not line:
            code = self._process.wait()
            self._complaints.seek(0)
            complaint = one_line(self._complaints.read())
            raise Unavailable(f"its process ended with {code}: {complaint}")
        answer: dict[str, Any] = json.loads(line)
        if "reason" in answer:
            raise Unavailable(one_line(answer["reason"]))
        return answer

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        with self._process, self._complaints:
            pass
