"""The child's side of peers.py: one process a peer, a call in, who speaks out.

Standard library, numpy and our codec only: this runs in every peer's environment.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from streamer.audio.codec import Encoding, Samples, decode


@dataclass(frozen=True)
class Sound:
    """A call.

    Attributes:
        data: as it was delivered.
        encoding: of ``data``.
        rate: Hz.
        samples: the same, decoded, int16.
    """

    data: bytes
    encoding: Encoding
    rate: int
    samples: Samples


@dataclass(frozen=True)
class Said:
    """What a peer says of a call.

    Attributes:
        label: "female", "male", or "" for no answer.
        sure: the same, but "" where the peer itself calls it undecided; None for a peer that
            never does.
        hertz: median pitch, from a peer that leaves the threshold to the caller.
    """

    label: str = ""
    sure: str | None = None
    hertz: float | None = None


Answer = Callable[[Sound], Said]
Load = Callable[[argparse.Namespace], tuple[str, Answer]]
"""Makes a peer ready; returns its version and what answers."""


def request(path: Path, encoding: Encoding, rate: int) -> str:
    """The line that asks for an answer to the call in a file."""
    return json.dumps({"path": str(path), "encoding": encoding.value, "rate": rate})


def heard(line: str) -> Sound:
    """The call that a line asks of."""
    wanted = json.loads(line)
    data = Path(wanted["path"]).read_bytes()
    encoding = Encoding(wanted["encoding"])
    return Sound(data, encoding, wanted["rate"], decode(data, encoding))


def answered(answer: Answer, sound: Sound) -> dict[str, Any]:
    """One call's answer with its cost; a peer that fails at a call has not answered it.

    Keys: those of :class:`Said`, ``error`` (None if it did not fail) and ``cpu_s``.
    """
    error = None
    said = Said()
    began = cpu_seconds()
    try:
        said = answer(sound)
    except Exception as problem:  # noqa: BLE001 - whatever it is, the call has no answer
        error = reason(problem)
    return {**asdict(said), "error": error, "cpu_s": cpu_seconds() - began}


def reason(error: Exception) -> str:
    """An exception on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split()) or 'no message'}"


def cpu_seconds() -> float:
    """User and system time of this process, all its threads, and of children that ended."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def peak_mib() -> float:
    """Most memory that this process ever held in RAM.

    Not ``ru_maxrss``: that one survives ``exec`` and is never below what the parent held.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/self/status has no VmHWM")


def serve(load: Load) -> None:
    """Load, then answer a line of stdin with a line of JSON, until stdin ends.

    Libraries like to print: what they write to stdout goes to stderr.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, help="ONNX file")
    options = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    try:
        version, answer = load(options)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the peer's reason
        answers.write(json.dumps({"reason": reason(error)}) + "\n")
        return
    ready = {"version": version, "cores": sorted(os.sched_getaffinity(0)), "cpu_s": cpu_seconds()}
    answers.write(json.dumps(ready) + "\n")
    for line in sys.stdin:
        said = answered(answer, heard(line))
        answers.write(json.dumps({**said, "peak_mib": peak_mib()}) + "\n")
