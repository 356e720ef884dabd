"""The server with counters: ``python benchmarks/load/server.py`` takes the flags of
``python -m streamer.serve``.

On SIGUSR1 it writes CPU seconds since it started, as JSON, to the file that the environment
variable VOICECOHORT_COUNTERS names: ``total`` (the process), ``decode_vad`` (taking an audio
message in: order, decoding, speech gate, blocks; not what its updates do at once), ``decisions``
(a prediction's message: calibration and rules), ``model`` (the student's step), ``engine`` (the
engine's thread, ``model`` included), ``handing`` (on the event loop, giving a step's answers to
their calls; not the updates that are due then), ``counting`` (what the counters themselves took
beside the parts, by what one takes in a loop: in ``total`` and in no part); beside them
``messages``, ``predictions``, ``steps``, ``blocks`` and ``serial``, which rises with every writing.

The product's code is not touched: five functions are wrapped, at a cost of two readings of the
thread's clock a call.
"""  # noqa: D205 - the command belongs to the first sentence

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from streamer import serve
from streamer.inference.model import Student
from streamer.inference.queues import Outbox
from streamer.session.session import CallSession
from streamer.transport import converters as messages

VARIABLE = "VOICECOHORT_COUNTERS"
_TRIALS = 20_000
"""Of a function that does nothing, to know what counting takes."""
P = ParamSpec("P")
R = TypeVar("R")


class Counter:
    """CPU of one function, on whichever thread runs it.

    Args:
        outer: what this one takes while one of them runs, on the same thread, is not the other's.
    """

    def __init__(self, *outer: Counter) -> None:
        self.seconds = 0.0
        self.calls = 0
        self._outer = outer
        self._running = False

    def timed(self, function: Callable[P, R]) -> Callable[P, R]:
        """The function, counted."""

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


def seconds_of_counting() -> float:
    """CPU that one counted call takes beyond what is counted of it."""
    counter = Counter()
    nothing = counter.timed(lambda: None)
    began = time.thread_time()
    for _ in range(_TRIALS):
        nothing()
    return (time.thread_time() - began - counter.seconds) / _TRIALS


class Counters:
    """All of them; makes the server count."""

    def __init__(self) -> None:
        self.decode_vad, self.decisions, self.model = Counter(), Counter(), Counter()
        self.handing = Counter()
        self._updates = Counter(self.decode_vad, self.handing)
        self.blocks = 0
        self._counting = seconds_of_counting()
        self._engine_clocks: list[int] = []
        self._serial = 0

    def install(self) -> None:
        """Wrap what is counted. Raises AttributeError if the server no longer has it."""
        CallSession.audio = self.decode_vad.timed(CallSession.audio)  # type: ignore[method-assign]
        CallSession.emit = self._updates.timed(CallSession.emit)  # type: ignore[method-assign]
        Outbox.hand_out = self.handing.timed(Outbox.hand_out)  # type: ignore[method-assign]
        messages.prediction = self.decisions.timed(messages.prediction)
        step, run = self.model.timed(Student.step), threading.Thread.run

        def counted_step(*args: object, **kwargs: object) -> object:
            samples = kwargs["samples"] if "samples" in kwargs else args[1]
            self.blocks += len(samples)  # type: ignore[arg-type]
            return step(*args, **kwargs)  # type: ignore[arg-type]

        def counted_run(thread: threading.Thread) -> None:
            if thread.name == "engine":
                self._engine_clocks.append(time.pthread_getcpuclockid(threading.get_ident()))
            run(thread)

        Student.step = counted_step  # type: ignore[method-assign,assignment]
        threading.Thread.run = counted_run  # type: ignore[method-assign,assignment]

    def read(self) -> dict[str, float]:
        """The counters now."""
        # Of the others it is within a part: of updates in what caused them, of steps in the engine.
        apart = (self.decode_vad, self.decisions, self.handing)
        return {
            "total": time.process_time(),
            "decode_vad": self.decode_vad.seconds,
            "decisions": self.decisions.seconds,
            "model": self.model.seconds,
            "handing": self.handing.seconds,
            "engine": sum(time.clock_gettime(clock) for clock in self._engine_clocks),
            "counting": self._counting * sum(counter.calls for counter in apart),
            "messages": self.decode_vad.calls,
            "predictions": self.decisions.calls,
            "steps": self.model.calls,
            "blocks": self.blocks,
        }

    def write(self, path: Path) -> None:
        """Replace the file at once, so that nobody reads half of it."""
        self._serial += 1
        new = path.with_suffix(".new")
        new.write_text(json.dumps({**self.read(), "serial": self._serial}))
        new.replace(path)


def main() -> int:
    """Serve, counting."""
    counters = Counters()
    counters.install()
    path = Path(os.environ[VARIABLE])
    signal.signal(signal.SIGUSR1, lambda *_: counters.write(path))
    return serve.main()


if __name__ == "__main__":
    sys.exit(main())
