"""Whether a model answers: a state of two values, from the steps of its engine.

The model is unhealthy after whole batches failed, a step got stuck or the engine's thread died.
From then on only a probe, a made-up block through the same engine, can show that it answers again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

MAX_FAILED_BATCHES = 3
"""Batches in a row without any result that make the model unhealthy."""
PROBE_INTERVAL_SECONDS = 1.0
"""Between two probes; the first is sent at once."""


class Health:
    """Health of one engine's model. Thread-safe.

    Args:
        clock: seconds, monotonic.

    Attributes:
        reason: why the model is unhealthy; empty while it is healthy.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.reason = ""
        self._clock = clock
        self._lock = threading.Lock()
        self._failed_batches = 0
        self._unhealthy_since = 0.0
        self._next_probe = 0.0

    @property
    def healthy(self) -> bool:
        """Whether new calls may use the model."""
        return not self.reason

    @property
    def unhealthy_seconds(self) -> float:
        """How long the model has been unhealthy; 0 while it is healthy."""
        with self._lock:
            return self._clock() - self._unhealthy_since if self.reason else 0.0

    def record_batch(self, blocks: int, failures: int) -> None:
        """Record a batch of ``blocks``, ``failures`` of which have no result."""
        with self._lock:
            self._failed_batches = self._failed_batches + 1 if failures >= blocks else 0
            if self._failed_batches >= MAX_FAILED_BATCHES:
                self._set_unhealthy(f"the last {MAX_FAILED_BATCHES} batches failed")

    def mark_unhealthy(self, reason: str) -> None:
        """Record that the engine cannot continue: a step is stuck, its thread is dead."""
        with self._lock:
            self._set_unhealthy(reason)

    def _set_unhealthy(self, reason: str) -> None:
        if not self.reason:
            self._unhealthy_since = self._next_probe = self._clock()
        self.reason = reason

    def probe_due(self) -> bool:
        """Return whether to send a probe now; true at most once a second."""
        with self._lock:
            now = self._clock()
            if not self.reason or now < self._next_probe:
                return False
            self._next_probe = now + PROBE_INTERVAL_SECONDS
            return True

    def mark_healthy(self) -> None:
        """Record that a probe was answered."""
        with self._lock:
            self.reason = ""
            self._failed_batches = 0
