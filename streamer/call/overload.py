"""Measure how busy and how far behind the server is, and shed load.

Every stream is read one message at a time, so on a server that has too much to do a turn of its
event loop takes as long as all its calls' messages together. Once a turn takes longer than a
message lasts, running calls fall behind and do not catch up: their audio waits in their streams,
where the server cannot see it. So new calls are refused already when the open ones need almost all
of the CPU for live audio; files that are streamed faster than speech fill it too, but can wait.
When work waits for long, or live calls fall behind all the same (many may have come at once),
predictions, of which the newest replaces the others, come less often.
"""

from __future__ import annotations

import math
import os
import time

BUSY_SECONDS = 0.05
"""Delay from which on predictions come half as often."""
FULL_SECONDS = 0.1
"""Delay from which on new calls are refused, and predictions come a quarter as often."""
FULL_DEMAND = 0.9
"""Share of the CPU, taken for live audio, from which on new calls are refused. Beyond it p99 grows
to hundreds of milliseconds; and of a rush some calls are let in before they are seen in it."""
NO_SPARE_DEMAND = 0.95
"""Share of the CPU, taken for live audio, from which on there is none left to keep up with."""
BUSY_DEMAND = 0.5
"""Share of the CPU, taken for live audio, from which on it is worth a few milliseconds."""
KEEPING_UP = (0.97, 0.9)
"""Share of the live calls' audio that a server without CPU time to spare has processed of late,
below which predictions come half and a quarter as often."""
CATCHING_UP = 1.25
"""Live calls that were held up are processed faster than real time; so far they are no files."""
RETRY_SECONDS = 2.0
"""Seconds after which a refused call may try again."""
_MEMORY_SECONDS = 0.5
"""Time constant of the averages: opening a hundred calls at once is no overload."""
_LONG_SECONDS = 2.0
"""Time constant of what is compared to a few per cent; messages come in lumps."""


class Load:
    """Running averages of one server.

    Attributes:
        delay: seconds that work waits.
        demand: share of the CPU time that it could have and live audio takes.
        audio_seconds: received since the last measurement; calls add to it.
    """

    def __init__(self) -> None:
        self.delay = 0.0
        self.demand = 0.0
        self._busy = 0.0
        self._rate = 0.0
        self.audio_seconds = 0.0
        self._live_rate = self._live_calls = 0.0

    def record(self, delay: float, busy: float, passed: float, calls: int) -> None:
        """Add one measurement to the averages.

        Args:
            delay: seconds that work waited, the longest found.
            busy: see :class:`CpuShare`.
            passed: seconds since the last measurement.
            calls: whose audio is arriving.
        """
        share = 1.0 - math.exp(-passed / _MEMORY_SECONDS)
        self.delay += share * (delay - self.delay)
        self._busy += share * (busy - self._busy)
        rate, self.audio_seconds = self.audio_seconds / passed, 0.0
        self._rate += share * (rate - self._rate)
        share = 1.0 - math.exp(-passed / _LONG_SECONDS)
        self._live_rate += share * (rate - self._live_rate)
        self._live_calls += share * (calls - self._live_calls)
        # So many live calls can send so much: what is beyond comes from files. Calls are
        # not distinguished one by one: one that a busy server started late is like a file at first.
        live = min(1.0, CATCHING_UP * calls / self._rate) if self._rate else 1.0
        self.demand = self._busy * live

    @property
    def busy(self) -> bool:
        """Whether work should wait for more of its kind, as several together are cheaper."""
        return self.demand >= BUSY_DEMAND

    @property
    def full(self) -> str:
        """Why another call would harm the running ones; empty if it would not."""
        if self.delay >= FULL_SECONDS:
            return f"{self.delay:.3g} s behind, limit {FULL_SECONDS:g} s"
        if self.demand >= FULL_DEMAND:
            return f"live calls take {self.demand:.0%} of the CPU, limit {FULL_DEMAND:.0%}"
        return ""

    def interval_factor(self) -> int:
        """Factor on the interval between two predictions: 1, 2 or 4."""
        half, quarter = KEEPING_UP
        # With CPU time to spare, what does not arrive is silence that gateways suppress.
        no_spare = self._live_calls and self.demand >= NO_SPARE_DEMAND
        kept_up = self._live_rate / self._live_calls if no_spare else 1.0
        if self.delay >= FULL_SECONDS or kept_up < quarter:
            return 4
        return 2 if self.delay >= BUSY_SECONDS or kept_up < half else 1


class CpuShare:
    """How much of the CPU time that it could have the server takes.

    The event loop's thread cannot have more than one core, all threads together not more than the
    process's part of the cores that it may run on.

    Args:
        workers: processes that share those cores.
    """

    def __init__(self, workers: int = 1) -> None:
        self._cores = max(1.0, len(os.sched_getaffinity(0)) / workers)
        self._before = self._read()

    @staticmethod
    def _read() -> tuple[float, float, float]:
        return time.monotonic(), time.thread_time(), time.process_time()

    def since_last(self) -> float:
        """Share since the last call, 0 to 1. To be called on the event loop's thread."""
        before, self._before = self._before, self._read()
        passed, thread, process = (b - a for a, b in zip(before, self._before, strict=True))
        return min(1.0, max(thread, process / self._cores) / max(passed, 1e-6))
