"""Which resumable calls run here, and which are over: a call is gone on with once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from streamer.errors import CallError, FailedPrecondition, TakenOver

MOST_ENDED = 65_536
"""Ended calls that are kept in mind: 5 minutes of 200 a second. The oldest are forgotten first."""


class Running(Protocol):
    """A call with an open stream."""

    def stop(self, reason: CallError) -> None:
        """End it."""


class Ledger:
    """Calls by the key that all checkpoints of a call have.

    Args:
        keep_seconds: how long an ended call is kept in mind: as long as a checkpoint of it may be
            taken.
        clock: seconds, monotonic.
    """

    def __init__(self, keep_seconds: float, clock: Callable[[], float]) -> None:
        self._keep_seconds = keep_seconds
        self._clock = clock
        self._running: dict[bytes, Running] = {}
        self._ended: dict[bytes, float] = {}  # when, the oldest first

    def __len__(self) -> int:
        """Calls that are kept in mind."""
        return len(self._running) + len(self._ended)

    def must_not_be_over(self, key: bytes) -> None:
        """Raises FailedPrecondition for a call that has had its final predictions here."""
        self._forget()
        if key in self._ended:
            raise FailedPrecondition(
                "config.resume_from",
                "it is used up: the call has had its final predictions",
                reason="checkpoint",
            )

    def began(self, key: bytes, call: Running) -> None:
        """A stream has the call from now on; one that had it before ends with ABORTED."""
        before = self._running.get(key)
        self._running[key] = call
        if before is not None:
            before.stop(TakenOver())

    def ended(self, key: bytes, call: Running, *, well: bool) -> None:
        """The stream of ``call`` is over.

        Args:
            key: of the call.
            call: as given to :meth:`began`.
            well: with its final predictions; otherwise it may be resumed.
        """
        if self._running.get(key) is not call:
            return  # taken over
        del self._running[key]
        if well:
            self._ended[key] = self._clock()
            self._forget()

    def _forget(self) -> None:
        oldest = self._clock() - self._keep_seconds
        while self._ended:
            key = next(iter(self._ended))
            if self._ended[key] > oldest and len(self._ended) <= MOST_ENDED:
                return
            del self._ended[key]
