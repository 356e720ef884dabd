"""Break the server's CPU time down into decoding, decisions, batching, model and transport.

``python benchmarks/load/cpu_breakdown.py`` takes the flags of ``python -m streamer.serve`` and
serves with five functions wrapped by CPU timers, each at a cost of two clock readings a call. On
SIGUSR1 it writes CPU seconds since its start, as JSON, to the file that the environment variable
BENCHMARK_COUNTERS names: ``total`` (the process), ``decode_vad`` (an audio message: order,
decoding, speech gate, blocks, without the updates it causes), ``decisions`` (a prediction's
message: calibration and decision rules), ``model`` (the model's step), ``engine`` (the engine's
thread, with ``model``), ``results`` (on the event loop, passing a step's results to calls, without
the updates that are due then), ``counting`` (overhead of the timers themselves: within ``total``,
within no part), and numbers of ``messages``, ``predictions``, ``steps``, ``blocks``.

The benchmark's side of this is :class:`CounterReader` and :func:`breakdown`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from streamer.process.local_server import LocalServer

VARIABLE = "BENCHMARK_COUNTERS"
PARTS = ("transport", "decode_vad", "decisions", "batching", "model")
TRIALS = 20_000
"""Calls of an empty function, to measure what counting costs."""
ANSWER_SECONDS = 10.0
"""For the server to write its counters."""
P = ParamSpec("P")
R = TypeVar("R")


class Counter:
    """CPU seconds and calls of one function, on whichever thread runs it.

    Args:
        outer: counters that exclude the time of this one when it runs within them.
    """

    def __init__(self, *outer: Counter) -> None:
        self.seconds = 0.0
        self.calls = 0
        self._outer = outer
        self._running = False

    def timed(self, function: Callable[P, R]) -> Callable[P, R]:
        """Wrap a function so that it is counted."""

        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            self._running = True
            began = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                took = time.thread_time() - began
                self.seconds += took
                self.calls += 1
                self._running = False
                for outer in self._outer:
                    if outer._running:
                        outer.seconds -= took

        return run


def counting_seconds() -> float:
    """Measure the CPU seconds of one counted call that its own counter does not include."""
    counter = Counter()
    empty = counter.timed(lambda: None)
    began = time.thread_time()
    for _ in range(TRIALS):
        empty()
    return (time.thread_time() - began - counter.seconds) / TRIALS


class Counters:
    """All counters of a server process."""

    def __init__(self) -> None:
        self.decode_vad, self.decisions, self.model = Counter(), Counter(), Counter()
        self.results = Counter()
        self._updates = Counter(self.decode_vad, self.results)
        self.blocks = 0
        self._counting = counting_seconds()
        self._engine_clocks: list[int] = []

    def install(self) -> None:
        """Wrap the server's functions. Raises AttributeError if the server lacks one."""
        from streamer.call.call import Call  # noqa: PLC0415 - a benchmark needs no server
        from streamer.inference.model import OnnxModel  # noqa: PLC0415
        from streamer.inference.queues import ResultQueue  # noqa: PLC0415
        from streamer.session.session import CallSession  # noqa: PLC0415
        from streamer.transport import converters  # noqa: PLC0415

        CallSession.audio = self.decode_vad.timed(CallSession.audio)  # type: ignore[method-assign]
        Call.on_prediction = self._updates.timed(Call.on_prediction)  # type: ignore[method-assign]
        ResultQueue.dispatch = self.results.timed(ResultQueue.dispatch)  # type: ignore[method-assign]
        converters.prediction = self.decisions.timed(converters.prediction)
        step, run = self.model.timed(OnnxModel.step), threading.Thread.run

        def counted_step(*args: object, **kwargs: object) -> object:
            samples = kwargs["samples"] if "samples" in kwargs else args[1]
            self.blocks += len(samples)  # type: ignore[arg-type]
            return step(*args, **kwargs)  # type: ignore[arg-type]

        def counted_run(thread: threading.Thread) -> None:
            if thread.name == "engine":
                self._engine_clocks.append(time.pthread_getcpuclockid(threading.get_ident()))
            run(thread)

        OnnxModel.step = counted_step  # type: ignore[method-assign,assignment]
        threading.Thread.run = counted_run  # type: ignore[method-assign,assignment]

    def read(self) -> dict[str, float]:
        """Return all counters now."""
        # Updates run within other parts, steps within the engine: they are no parts of their own.
        parts = (self.decode_vad, self.decisions, self.results)
        return {
            "total": time.process_time(),
            "decode_vad": self.decode_vad.seconds,
            "decisions": self.decisions.seconds,
            "model": self.model.seconds,
            "results": self.results.seconds,
            "engine": sum(time.clock_gettime(clock) for clock in self._engine_clocks),
            "counting": self._counting * sum(counter.calls for counter in parts),
            "messages": self.decode_vad.calls,
            "predictions": self.decisions.calls,
            "steps": self.model.calls,
            "blocks": self.blocks,
        }

    def write(self, path: Path) -> None:
        """Replace the file in one step, so that a reader never sees half of it."""
        new = path.with_suffix(".new")
        new.write_text(json.dumps(self.read()))
        new.replace(path)


class CounterReader:
    """Request the counters of a running counted server.

    Args:
        server: the process.
        path: file that it writes.
    """

    def __init__(self, server: LocalServer, path: Path) -> None:
        self._server = server
        self._path = path

    def __call__(self) -> dict[str, float]:
        """Return the counters now; raise TimeoutError if the server does not write them."""
        self._path.unlink(missing_ok=True)
        self._server.process.send_signal(signal.SIGUSR1)
        deadline = time.monotonic() + ANSWER_SECONDS
        while time.monotonic() < deadline:
            if self._path.exists():
                read: dict[str, float] = json.loads(self._path.read_text())
                return read
            time.sleep(0.002)
        raise TimeoutError(f"the server wrote no counters within {ANSWER_SECONDS:g} s")


def breakdown(grown: Mapping[str, float], call_seconds: float) -> dict[str, float]:
    """Return CPU-ms per call-second: ``total`` without counting, and the parts that sum to it.

    Args:
        grown: how much each counter grew.
        call_seconds: seconds of calls meanwhile.

    Raises:
        ValueError: a part was never counted, so this module wraps the wrong function.
    """
    for counter in ("messages", "predictions", "steps"):
        if not grown[counter]:
            raise ValueError(f"{counter} counted: 0; cpu_breakdown.py wraps the wrong function")
    parts = {
        "decode_vad": grown["decode_vad"],
        "decisions": grown["decisions"],
        "batching": grown["engine"] - grown["model"] + grown["results"],
        "model": grown["model"],
    }
    total = grown["total"] - grown["counting"]
    parts = {"total": total, "transport": total - sum(parts.values()), **parts}
    return {name: round(1000 * spent / call_seconds, 4) for name, spent in parts.items()}


def main() -> int:
    """Serve, counting."""
    from streamer import serve  # noqa: PLC0415 - a benchmark needs no server

    counters = Counters()
    counters.install()
    path = Path(os.environ[VARIABLE])
    signal.signal(signal.SIGUSR1, lambda *_: counters.write(path))
    return serve.main()


if __name__ == "__main__":
    sys.exit(main())
