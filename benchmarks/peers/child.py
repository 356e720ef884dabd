"""Run one system in a process of its own: calls in, answers and their cost out.

    python -m peers.child MODULE:FUNCTION [--model FILE]

The process loads the system, writes a line of JSON about itself, and then answers a line with a
line until stdin ends. A request names a file of encoded audio and how many calls of equal length
are in it. Only the standard library, numpy and the server's codec are imported here, because this
runs in the environment of every system.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from streamer.audio.codec import Encoding, Samples, decode


@dataclass(frozen=True)
class Sound:
    """A call as it is delivered, at ``rate`` Hz."""

    data: bytes
    encoding: Encoding
    rate: int

    @property
    def samples(self) -> Samples:
        """The call decoded, int16."""
        return decode(self.data, self.encoding)


@dataclass(frozen=True)
class Answer:
    """The answer of a system to a call.

    Attributes:
        label: "female", "male", or "" for no answer.
        hertz: median pitch, from a system that leaves the threshold to the caller.
        predictions: made in the course of the call.
    """

    label: str = ""
    hertz: float | None = None
    predictions: int = 1


Process = Callable[[Sequence[Sound]], list[Answer]]
"""Answers calls of equal length, which a system may process side by side."""
Load = Callable[[Path | None], tuple[str, Process]]
"""A system of ``systems.py``: takes a model file and returns its version and its process."""


def answer(process: Process, line: str) -> dict[str, Any]:
    """Answer a request.

    Returns:
        ``answers``, empty if the system failed; ``error``, None if it did not; ``cpu_s``, user and
        system time of this process and its children; ``peak_mib``.
    """
    given = json.loads(line)
    data, encoding = Path(given["path"]).read_bytes(), Encoding(given["encoding"])
    size = len(data) // given["calls"]
    parts = [data[start : start + size] for start in range(0, size * given["calls"], size)]
    answers: list[Answer] = []
    error = None
    began = cpu_seconds()
    try:
        answers = process([Sound(part, encoding, given["rate"]) for part in parts])
    except Exception as problem:  # noqa: BLE001 - any failure is an unanswered call
        error = reason(problem)
    spent = cpu_seconds() - began
    found = [asdict(each) for each in answers]
    return {"answers": found, "error": error, "cpu_s": spent, "peak_mib": peak_mib()}


def reason(error: Exception) -> str:
    """Format an exception on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split()) or 'no message'}"


def cpu_seconds() -> float:
    """User and system time of this process, all its threads, and of children that ended."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def peak_mib() -> float:
    """Most memory that this process held in RAM.

    Not ``ru_maxrss``: that one survives ``exec`` and is never below what the parent held.
    """
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024


def main() -> None:
    """Run the command, see the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("load", help="MODULE:FUNCTION, see Load")
    parser.add_argument("--model", type=Path, help="ONNX file")
    options = parser.parse_args()
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # libraries print: their stdout becomes stderr
    module, _, function = options.load.partition(":")
    try:
        load: Load = getattr(importlib.import_module(module), function)
        version, process = load(options.model)
    except Exception as error:  # noqa: BLE001 - any failure is the reason why it did not run
        replies.write(json.dumps({"reason": reason(error)}) + "\n")
        return
    ready = {"version": version, "cores": sorted(os.sched_getaffinity(0)), "cpu_s": cpu_seconds()}
    replies.write(json.dumps(ready) + "\n")
    for line in sys.stdin:
        replies.write(json.dumps(answer(process, line)) + "\n")


if __name__ == "__main__":
    main()
