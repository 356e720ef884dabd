"""How a call's audio comes: as it is spoken, or faster, from a file."""

from __future__ import annotations

AHEAD_SECONDS = 0.5
"""Audio beyond its age that a live call may have sent."""
FILE_RATE = 2.0
"""Seconds of audio in a second, over the life of a call, above which it is not spoken."""


class Pace:
    """Tells a file that is streamed from a live call.

    Being ahead is not enough: a call's age counts from when the server began it, and what a live
    call has said before (its gateway kept it, or the server was too busy to begin) it is ahead by
    for as long as it lasts. Nor is coming fast for a while: so does a call that was held up, and
    on a server that has too much to do they all are. A file comes faster on the whole.

    Args:
        now: when the call begins here, seconds, monotonic.
        age: of the call, seconds; not 0 if it began elsewhere.
        sent: seconds of its audio that were heard elsewhere.
    """

    def __init__(self, now: float, *, age: float = 0.0, sent: float = 0.0) -> None:
        self.began = now - age
        self._here = now
        self._elsewhere = self._sent = sent

    def heard(self, sent: float) -> None:
        """Take note of a message; ``sent`` is the seconds of audio in the whole call up to it."""
        self._sent = sent

    def ahead(self, now: float) -> bool:
        """Whether it has sent more audio than it is old: all of that was heard in time."""
        return self._sent - (now - self.began) > AHEAD_SECONDS

    def file(self, now: float) -> bool:
        """Whether it streams a file, which can wait."""
        rate_exceeded = self._sent - self._elsewhere > FILE_RATE * (now - self._here)
        return rate_exceeded and self.ahead(now)
