"""CPU cost of a second of call at minute 1 and at a later minute, side by side; memory of a call.

    python benchmarks/constant_cost.py --minutes 120

Two calls run through the real session, speech gate, engine and student in one process. The old
one is brought to ``--minutes`` first, as fast as the machine can; then young and old take turns
second by second over the same minute of audio, so that the machine's moods hit both alike. The
young call starts anew in every round. What is quoted is the median over rounds of the ratio
old / young. Each block is a step by itself: in a batch of live calls it costs less, see
throughput.py.

Memory is the growth of the resident set over --calls calls that have heard three seconds each:
session, speech gate, decoder and state, without gRPC's share of a stream.

JSON keys: ``minutes``, ``ratio`` (median, min, max), ``cpu_ms_per_call_s`` of each, ``rounds``,
``state_bytes`` (of one channel's state and cache), ``memory_bytes_per_call``,
``ageing_growth_bytes`` (resident set, while the old call aged), ``model``, ``device``.
"""

from __future__ import annotations

import argparse
import json
import queue
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import soundfile
from latency import DEMO, device_name
from rich.progress import track

from streamer.audio.codec import SAMPLE_RATE, Encoding, encode
from streamer.errors import CallError
from streamer.inference.engine import Engine
from streamer.inference.model import CPU_MODEL, Student
from streamer.session.events import Update
from streamer.session.session import CallConfig, CallSession


class Call:
    """One call fed by hand; waits for the engine after every second of audio."""

    def __init__(self, engine: Engine, results: queue.Queue[Callable[[], None]]) -> None:
        self._results = results
        config = CallConfig("benchmark", Encoding.MULAW, SAMPLE_RATE)
        self.session = CallSession(config, engine, self)
        self._sequence = 0

    def second(self, audio: bytes) -> float:
        """Feed one second in 100 ms chunks; returns the CPU seconds it took, all threads."""
        began = time.process_time()
        chunk = SAMPLE_RATE // 10
        for start in range(0, len(audio), chunk):
            self._sequence += 1
            self.session.audio(self._sequence, audio[start : start + chunk])
            while self.session.backlog:
                self._results.get()()
        return time.process_time() - began

    def updated(self, update: Update) -> None:
        """Nobody looks at predictions here."""

    def spoke(self, channel: int, started: bool, audio_seconds: float) -> None:
        """Nor at events."""

    def progressed(self) -> None:
        """The loop in :meth:`second` looks by itself."""

    def failed(self, error: CallError) -> None:
        """A failing call measures nothing."""
        raise error


def resident_bytes() -> int:
    """Resident set of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def memory_per_call(new: Callable[[], Call], seconds: list[bytes], calls: int) -> int:
    """Growth of the resident set for each of ``calls`` calls that are kept open."""
    open_calls = [new() for _ in range(20)]  # what is made once is made now
    for call in open_calls:
        call.second(seconds[0])
    before = resident_bytes()
    for _ in track(range(calls), "opening calls"):
        call = new()
        for second in seconds[:3]:
            call.second(second)
        open_calls.append(call)
    grown = resident_bytes() - before
    for call in open_calls:
        call.session.close()
    return round(grown / calls)


def main() -> int:
    """Command line; 1 if the old call costs over 5 % more."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=int, default=30, help="age of the old call (%(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="minutes compared (%(default)s)")
    parser.add_argument(
        "--calls", type=int, default=400, help="opened to see their memory (%(default)s)"
    )
    parser.add_argument("--model", type=Path, default=CPU_MODEL)
    parser.add_argument("--json", type=Path, help="write the result there too")
    options = parser.parse_args()

    student = Student(options.model, provider="cpu")
    results: queue.Queue[Callable[[], None]] = queue.Queue()
    # Nobody else's blocks come: waiting for them would only keep the ageing to real time.
    engine = Engine(student, results.put, gather=0.0)
    engine.prepared.result()  # its first steps belong to no call
    demo, _ = soundfile.read(DEMO, dtype="int16", always_2d=True)
    coded = encode(demo[:, 0].copy(), Encoding.MULAW)
    audio = (coded * (60 * SAMPLE_RATE // len(coded) + 1))[: 60 * SAMPLE_RATE]
    seconds = [audio[i * SAMPLE_RATE : (i + 1) * SAMPLE_RATE] for i in range(60)]

    memory = memory_per_call(lambda: Call(engine, results), seconds, options.calls)
    old = Call(engine, results)
    for second in seconds:  # a minute, for every buffer to reach its size
        old.second(second)
    resident = resident_bytes()
    for _ in track(range(options.minutes - 2), "ageing a call"):
        for second in seconds:
            old.second(second)
    growth = resident_bytes() - resident
    ratios, costs = [], {"young": [0.0], "old": [0.0]}
    for _ in track(range(options.rounds), "comparing"):
        young = Call(engine, results)
        spent = {"young": 0.0, "old": 0.0}
        for index, second in enumerate(seconds):
            pair = [("young", young), ("old", old)]
            for name, call in pair if index % 2 else reversed(pair):
                spent[name] += call.second(second)
        young.session.close()
        ratios.append(spent["old"] / spent["young"])
        for name, value in spent.items():
            costs[name].append(1000 * value / len(seconds))
    engine.stop()
    result = {
        "minutes": options.minutes,
        "rounds": options.rounds,
        "ratio": {
            "median": round(statistics.median(ratios), 4),
            "min": round(min(ratios), 4),
            "max": round(max(ratios), 4),
        },
        "cpu_ms_per_call_s": {n: round(statistics.median(c[1:]), 3) for n, c in costs.items()},
        "state_bytes": student.metadata.memory_bytes,
        "memory_bytes_per_call": memory,
        "ageing_growth_bytes": growth,
        "model": student.metadata.model_id,
        "device": device_name(),
    }
    text = json.dumps(result, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")
    return 1 if statistics.median(ratios) > 1.05 else 0


if __name__ == "__main__":
    sys.exit(main())
