"""The child's side of peer_cost.py: one process a peer, a line in for every round, a line out.

Standard library, numpy and our own speech gate only: this runs in every peer's environment.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamer.audio.codec import SAMPLE_RATE, Encoding, Samples, decode

Calls = NDArray[np.uint8]
"""Mu-law bytes, a row a call."""
Hear = Callable[[Calls], int]
"""One round over calls; returns the predictions that came out."""
Load = Callable[[argparse.Namespace], tuple[str, Hear]]
"""Makes a peer ready; returns its version and what hears."""

WINDOW_SECONDS = 3.0
EVERY_SECONDS = 0.5
CHUNK = SAMPLE_RATE // 10
WARM_UP_SECONDS = 6


def windows(call: NDArray[np.uint8], *, least_seconds: float = 0.5) -> Iterator[Samples]:
    """The windows that a recomputing peer hears of a call, as it goes on.

    The call comes in chunks of 100 ms through the speech gate that our server uses. At each half
    second, if there was speech since the last window, the last three seconds of speech are due.

    Args:
        call: mu-law bytes.
        least_seconds: speech before the first window.
    """
    from streamer.audio.speech_gate import SpeechGate  # noqa: PLC0415 - offline peers live without webrtcvad

    gate = SpeechGate()
    heard = np.zeros(0, np.int16)
    fresh = False
    due = step = round(EVERY_SECONDS * SAMPLE_RATE)
    for start in range(0, len(call), CHUNK):
        speech, _ = gate.push(decode(call[start : start + CHUNK].tobytes(), Encoding.MULAW))
        if speech:
            fresh = True
            heard = np.concatenate([heard, np.frombuffer(speech, np.int16)])[
                -round(WINDOW_SECONDS * SAMPLE_RATE) :
            ]
        if start + CHUNK >= due:
            due += step
            if fresh and len(heard) >= least_seconds * SAMPLE_RATE:
                fresh = False
                yield heard


def several(calls: Calls, count: int | None) -> Calls:
    """``count`` calls of the same bytes, none in step with another; None leaves them alone."""
    if count is None:
        return calls
    length = calls.shape[1]
    return np.stack([np.roll(calls[n % len(calls)], n * length // count) for n in range(count)])


def whole(call: NDArray[np.uint8]) -> Samples:
    """A call for a peer that reads files."""
    return decode(call.tobytes(), Encoding.MULAW)


def serve(load: Load) -> None:
    """Load, warm up, then measure a round for every line on stdin; answers are lines of JSON.

    Libraries like to print: what they write to stdout goes to stderr. Only CPU time of this
    process counts, user and system, all its threads; it inherits its core from the parent.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("audio", type=Path, help=".npy of mu-law calls")
    parser.add_argument("--calls", type=int, help="so many, each from another point of the audio")
    parser.add_argument("--model", type=Path, help="ONNX file")
    parser.add_argument("--variant", default="", help="what the peer's module says")
    options = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    try:
        calls = several(np.load(options.audio), options.calls)
        version, hear = load(options)
        hear(calls[:, : WARM_UP_SECONDS * SAMPLE_RATE])
        answers.write(json.dumps({"version": version, "cores": cores()}) + "\n")
        for _ in sys.stdin:
            began = time.process_time()
            predictions = hear(calls)
            spent = time.process_time() - began
            if not predictions:
                raise ValueError("no prediction came out: there is nothing to compare")  # noqa: TRY301
            seconds = calls.size / SAMPLE_RATE
            answer = {"cpu_s": spent, "call_s": seconds, "predictions": predictions}
            answers.write(json.dumps(answer) + "\n")
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the row's reason
        reason = " ".join(str(error).split()) or "no message"
        answers.write(json.dumps({"reason": f"{type(error).__name__}: {reason}"}) + "\n")


def cores() -> list[int]:
    """Cores that this process may use."""
    return sorted(os.sched_getaffinity(0))
