"""Whether a student answers: what its engine saw lately, as a state of two values.

It fails on whole batches, sticks or loses its thread: not healthy. From then on only a probe, a
made-up block through the same engine, shows that it answers again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

FAILED_BATCHES = 3
"""Batches in a row of which no call was answered."""
PROBE_INTERVAL_SECONDS = 1.0
"""Between two probes; the first comes at once."""


class Health:
    """Of one engine. Safe to use from any thread.

    Args:
        clock: seconds, monotonic.

    Attributes:
        reason: why it is not healthy; empty while it is.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.reason = ""
        self._clock = clock
        self._lock = threading.Lock()
        self._failed = 0
        self._since = 0.0
        self._next_probe = 0.0

    @property
    def healthy(self) -> bool:
        """New calls may come."""
        return not self.reason

    @property
    def unhealthy_seconds(self) -> float:
        """How long it has not been healthy; 0 while it is."""
        with self._lock:
            return self._clock() - self._since if self.reason else 0.0

    def record_batch(self, blocks: int, failures: int) -> None:
        """A batch of ``blocks`` came back, ``failures`` of them without an answer."""
        with self._lock:
            self._failed = self._failed + 1 if failures >= blocks else 0
            if self._failed >= FAILED_BATCHES:
                self._set_unhealthy(f"the last {FAILED_BATCHES} batches failed")

    def mark_unhealthy(self, reason: str) -> None:
        """The engine cannot go on as it is: a step is stuck, its thread is dead."""
        with self._lock:
            self._set_unhealthy(reason)

    def _set_unhealthy(self, reason: str) -> None:
        if not self.reason:
            self._since = self._next_probe = self._clock()
        self.reason = reason

    def probe_due(self) -> bool:
        """Whether to send a probe now; true at most once a second."""
        with self._lock:
            now = self._clock()
            if not self.reason or now < self._next_probe:
                return False
            self._next_probe = now + PROBE_INTERVAL_SECONDS
            return True

    def mark_healthy(self) -> None:
        """A probe was answered."""
        with self._lock:
            self.reason = ""
            self._failed = 0
