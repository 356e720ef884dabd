"""When the checkpoints of a call are due, and what they are made with."""

from __future__ import annotations

from collections.abc import Callable

from streamer.checkpoint import CallIdentity, Checkpoints
from streamer.operation.metrics import Metrics
from streamer.snapshot import CallState


class Keeper:
    """One call's checkpoints.

    Args:
        identity: that they are bound to.
        interval: seconds of audio from one to the next.
        most_seconds: of time, likewise: a call on which nothing is said for long must not be left
            with a checkpoint that is too old.
        checkpoints: makes them.
        metrics: counts them.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        identity: CallIdentity,
        interval: float,
        most_seconds: float,
        checkpoints: Checkpoints,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self.identity = identity
        self._interval = interval
        self._most_seconds = most_seconds
        self._checkpoints = checkpoints
        self._metrics = metrics
        self._clock = clock
        self._next_audio = interval
        self._last = clock()

    def due(self, audio_seconds: float) -> bool:
        """Whether it is time for one, the call being so long."""
        return audio_seconds >= self._next_audio

    @property
    def overdue(self) -> bool:
        """Whether the last one is old, whatever was heard since."""
        return self._clock() - self._last >= self._most_seconds

    def asked(self, audio_seconds: float) -> None:
        """One is on its way."""
        self._next_audio = audio_seconds + self._interval
        self._last = self._clock()

    def seal(self, state: CallState) -> bytes:
        """The checkpoint, made only when it is sent."""
        sealed = self._checkpoints.seal(self.identity, state)
        self._metrics.checkpoint(len(sealed))
        return sealed
