"""How far the server is behind, and what it does about it.

Every stream is read one message at a time, so on a server that has too much to do a turn of its
event loop takes as long as all its calls' messages together. Once a turn takes longer than a
message lasts, running calls fall behind; before that new calls must be refused, and predictions,
of which the newest replaces the others, come less often.
"""

from __future__ import annotations

import math

BUSY_SECONDS = 0.05
"""Delay from which on predictions come half as often."""
FULL_SECONDS = 0.1
"""Delay from which on new calls are refused, and predictions come a quarter as often."""
RETRY_SECONDS = 2.0
"""When a refused call may try again."""
_MEMORY_SECONDS = 1.0
"""Time constant of the average: opening a hundred calls at once is no overload."""


class Load:
    """Running average of the delays of one server.

    Attributes:
        delay: seconds.
    """

    def __init__(self) -> None:
        self.delay = 0.0

    def measured(self, delay: float, passed: float) -> None:
        """Take one measurement into account.

        Args:
            delay: seconds that work waited just now, the longest of what was looked at.
            passed: seconds since the last measurement.
        """
        share = 1.0 - math.exp(-passed / _MEMORY_SECONDS)
        self.delay += share * (delay - self.delay)

    @property
    def full(self) -> bool:
        """Whether another call would harm the running ones."""
        return self.delay >= FULL_SECONDS

    @property
    def stretch(self) -> int:
        """Factor on the interval between two predictions: 1, 2 or 4."""
        if self.delay < BUSY_SECONDS:
            return 1
        return 4 if self.full else 2
