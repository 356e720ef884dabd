"""Virtual environments and child processes of the systems compared.

A system that cannot be installed or run raises :class:`Unavailable`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
from pathlib import Path
from typing import Any

from peers.rows import Environment, System

from streamer.audio.codec import Encoding

ROOT = Path(__file__).resolve().parents[2]
PATHS = (ROOT / "benchmarks", ROOT)
THREADS = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"),
    *("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"),
)
INSTALL_SECONDS = 1200
ANSWER_SECONDS = 900


class Unavailable(Exception):
    """A system cannot run; the message is the reason in its row, one line."""


def one_line(text: str, limit: int = 300) -> str:
    """Return the last line that names an error, without folders of this machine."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")]
    line = (errors or lines or ["no message"])[-1]
    line = line.replace(str(ROOT), "…").replace(str(Path.home()), "…")
    return line if len(line) <= limit else line[: limit - 1] + "…"


def process_environment() -> dict[str, str]:
    """Return the variables of a child: one thread for every library, our packages importable."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONHOME"}
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "", "PYTHONSAFEPATH": "1"}
    paths = os.pathsep.join(map(str, PATHS))
    return {**kept, **dict.fromkeys(THREADS, "1"), **quiet, "PYTHONPATH": paths}


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter
            command,
            env=process_environment(),
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
    """Return the Python of an environment under ``folder``, made there once."""
    if environment is None:
        return Path(sys.executable)
    home = folder.resolve() / environment.name
    python, stamp = home / "bin" / "python", home / "installed.json"
    pins = json.dumps([*environment.pins, *environment.bare, sys.version.split()[0]])
    if stamp.is_file() and stamp.read_text() == pins:
        return python
    shutil.rmtree(home, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(home)])
    if environment.on_ours:
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        path = home / "lib" / version / "site-packages" / "ours.pth"
        path.write_text(sysconfig.get_path("purelib") + "\n")
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for words in (environment.pins, environment.bare and ("--no-deps", *environment.bare)):
        if words:
            _run([*pip, *words])
    stamp.write_text(pins)
    return python


class Child:
    """The process of a system, loaded and kept to one core; ``ready`` is its first line.

    Args:
        system: to run.
        environments: folder of the virtual environments.
        model: our model, None for the one that the server takes on a CPU.
        core: number of the core.
    """

    def __init__(self, system: System, environments: Path, model: Path | None, core: int) -> None:
        python = interpreter(system.environment, environments)
        if system.ecapa:
            model = environments.resolve() / "ecapa512.onnx"
            if not model.is_file():
                _run(
                    [
                        str(interpreter(system.ecapa, environments)),
                        "-m",
                        "peers.systems",
                        str(model),
                    ]
                )
        name = system.name if ":" in system.name else f"peers.systems:{system.name}"
        words = [name, *(["--model", str(model.resolve())] if model else [])]
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - until stop
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {core})  # the child inherits it
        try:
            self._process = subprocess.Popen(  # noqa: S603 - as above
                [str(python), "-m", "peers.child", *words],
                env=process_environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
            )
        finally:
            os.sched_setaffinity(0, before)
        try:
            self.ready = self._reply()
        except Unavailable:
            self.stop()
            raise
        assert self.ready["cores"] == [core], "a library changed the cores of its process"
        self.version: str = self.ready["version"]

    def ask(self, path: Path, encoding: Encoding, rate: int, calls: int = 1) -> dict[str, Any]:
        """Request answers to the calls in a file, see ``child.answer``."""
        assert self._process.stdin is not None
        request = {"path": str(path), "encoding": encoding.value, "rate": rate, "calls": calls}
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise Unavailable("its process died") from error
        return self._reply()

    def _reply(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        timer = threading.Timer(ANSWER_SECONDS, self._process.kill)
        timer.start()
        try:
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        if not line:
            code = self._process.wait()
            self._errors.seek(0)
            raise Unavailable(f"its process ended with {code}: {one_line(self._errors.read())}")
        reply: dict[str, Any] = json.loads(line)
        if "reason" in reply:
            raise Unavailable(one_line(reply["reason"]))
        return reply

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        with self._process, self._errors:
            pass
