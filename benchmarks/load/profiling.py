"""A flame graph of a running process, by py-spy: where its CPU time goes, native code too."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

SAMPLES_PER_SECOND = 100
"""Each stops the process for a moment: a profiled run's latencies are not its own."""
TITLE = re.compile(r'(<text id="title"[^>]*>)[^<]*<')
GRACE_SECONDS = 60.0
"""Resolving native symbols and writing the picture come after the last sample."""


class Profiler:
    """Samples a process for some seconds, beside it.

    Args:
        pid: of the process.
        path: of the flame graph, SVG.

    Raises:
        FileNotFoundError: py-spy is not installed.
    """

    def __init__(self, pid: int, path: Path) -> None:
        beside = Path(sys.executable).with_name("py-spy")
        found = str(beside) if beside.exists() else shutil.which("py-spy")
        if found is None:
            raise FileNotFoundError("--profile needs py-spy: pip install 'voicecohort[bench]'")
        self._program, self._pid, self.path = found, pid, path
        self._recording: subprocess.Popen[str] | None = None

    @property
    def started(self) -> bool:
        """Whether it samples, or has sampled."""
        return self._recording is not None

    def start(self, seconds: float) -> None:
        """Begin; only what is on a core is sampled, so that widths are shares of CPU time."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._recording = subprocess.Popen(  # noqa: S603
            [
                *(self._program, "record", "--pid", str(self._pid), "--output", str(self.path)),
                *("--duration", str(max(1, round(seconds)))),
                *("--rate", str(SAMPLES_PER_SECOND)),
                *("--format", "flamegraph", "--native", "--threads", "--function"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self) -> None:
        """Wait for the picture.

        Raises:
            RuntimeError: there is none; what py-spy said.
        """
        assert self._recording is not None, "finish() before start()"
        try:
            _, said = self._recording.communicate(timeout=GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._recording.kill()
            self._recording.communicate()
            raise RuntimeError(f"{self.path}: py-spy wrote nothing") from None
        if self._recording.returncode or not self.path.exists():
            raise RuntimeError(f"{self.path}: py-spy: {said.strip()}")
        # py-spy heads it with its own command, paths and all.
        drawn = self.path.read_text()
        self.path.write_text(TITLE.sub(r"\g<1>CPU time of the server<", drawn, count=1))
