"""Compare the CPU cost of an old call with that of a young one, in one process without gRPC."""

from __future__ import annotations

import argparse
import os
import queue
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from load.generator import recordings
from rich.progress import track
from soaking.monitor import resources

from streamer.codec import SAMPLE_RATE, Encoding
from streamer.engine import Engine
from streamer.session import CallConfig, CallSession
from streamer.student import CPU_MODEL, Student


class SessionCall:
    """One call in this process; waits for the engine after every chunk."""

    def __init__(self, engine: Engine, results: queue.Queue[Callable[[], None]]) -> None:
        self._results = results
        self.session = CallSession(CallConfig("soak", Encoding.MULAW, SAMPLE_RATE), engine, self)
        self._sequence = 0

    def second(self, audio: bytes) -> float:
        """Process one second in 100 ms chunks; return the CPU seconds of all threads."""
        began, size = time.process_time(), SAMPLE_RATE // 10
        for start in range(0, len(audio), size):
            self._sequence += 1
            self.session.audio(self._sequence, audio[start : start + size])
            while self.session.backlog:
                self._results.get()()
        return time.process_time() - began

    def updated(self, update: object) -> None:
        """Ignore predictions."""

    def spoke(self, channel: int, started: bool, audio_seconds: float) -> None:
        """Ignore speech events."""

    def progressed(self) -> None:
        """Ignore progress: :meth:`second` reads the backlog."""

    def failed(self, error: Exception) -> None:
        """Raise the error of a failed call."""
        raise error


def old_call(options: argparse.Namespace) -> dict[str, Any]:
    """Compare the CPU cost of a second of a young and an old call, second by second in turns."""
    student = Student(Path(options.model) if options.model else CPU_MODEL, provider="cpu")
    results: queue.Queue[Callable[[], None]] = queue.Queue()
    engine = Engine(student, results.put, gather=0.0)  # no other calls to wait for
    engine.prepared.result()
    audio = b"".join(recordings(100, options.seed)[0][1])  # mu-law
    audio = (audio * (60 * SAMPLE_RATE // len(audio) + 1))[: 60 * SAMPLE_RATE]
    seconds = [audio[at : at + SAMPLE_RATE] for at in range(0, len(audio), SAMPLE_RATE)]

    def rss_bytes() -> float:
        return 2**20 * resources(os.getpid())["rss_mb"]

    opened: list[SessionCall] = []
    for index in range(options.calls + 20):
        if index == 20:  # what is allocated once is allocated now
            before = rss_bytes()
        opened.append(SessionCall(engine, results))
        for second in seconds[:3]:
            opened[-1].second(second)
    memory = round((rss_bytes() - before) / options.calls)
    for call in opened:
        call.session.close()
    old = SessionCall(engine, results)
    for second in seconds:
        old.second(second)
    resident = rss_bytes()
    for _ in track(range(round(options.minutes) - 2), "ageing a call", transient=True):
        for second in seconds:
            old.second(second)
    growth = round(rss_bytes() - resident)
    spent: dict[str, list[float]] = {"young": [], "old": []}
    for _ in track(range(options.rounds), "comparing", transient=True):
        young = SessionCall(engine, results)
        cost = {"young": 0.0, "old": 0.0}
        for index, second in enumerate(seconds):
            pair = [("young", young), ("old", old)]
            for name, call in pair if index % 2 else reversed(pair):
                cost[name] += call.second(second)
        young.session.close()
        for name, value in cost.items():
            spent[name].append(1000 * value / len(seconds))
    engine.stop()
    ratios = [b / a for a, b in zip(spent["young"], spent["old"], strict=True)]
    median = statistics.median(ratios)
    return {
        "minutes": options.minutes,
        "rounds": options.rounds,
        "ratio": {
            "median": round(median, 4),
            "min": round(min(ratios), 4),
            "max": round(max(ratios), 4),
        },
        "cpu_ms_per_call_s": {n: round(statistics.median(v), 3) for n, v in spent.items()},
        "state_bytes": student.metadata.memory_bytes,
        "memory_bytes_per_call": memory,
        "ageing_growth_bytes": growth,
        "model": student.metadata.model_id,
    }


def old_call_failures(result: dict[str, Any]) -> list[str]:
    """Return the failures of :func:`old_call`."""
    median = result["ratio"]["median"]
    return [f"an old call costs {median} times a young one"] if median > 1.05 else []
