"""Name the machine and the code of a measurement, for its record."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from pathlib import Path


def device_name() -> str:
    """Name the processor and count its cores."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    return f"{name}, {os.cpu_count()} cores"


def code_version() -> str:
    """Return git describe of the checkout, or "unknown" outside one."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    )
    return described.stdout.strip() or "unknown"
