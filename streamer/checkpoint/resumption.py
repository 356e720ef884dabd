"""Resume calls from checkpoints: their schedule, the calls that can be resumed, who may."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from streamer.checkpoint.serialization import (
    CallIdentity,
    Checkpoints,
    Resumed,
    new_call_key,
    require_same_call,
)
from streamer.errors import CallError, FailedPrecondition, TakenOver
from streamer.inference.metadata import Metadata
from streamer.inference.registry import ModelRegistry, ServedModel
from streamer.observability.metrics import Metrics
from streamer.rpc import voicecohort_pb2 as pb
from streamer.security.encryption import MAX_CLOCK_SKEW_SECONDS
from streamer.security.identity import Caller
from streamer.session.session import CallConfig
from streamer.session.state import CallState


class CheckpointSchedule:
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
        self._metrics.record_checkpoint(len(sealed))
        return sealed


MOST_ENDED = 65_536
"""Ended calls that are kept in mind: 5 minutes of 200 a second. The oldest are forgotten first."""


class Running(Protocol):
    """A call with an open stream."""

    @property
    def checkpoints(self) -> CheckpointSchedule | None:
        """Of its checkpoints; None if it asked for none."""

    @property
    def resumed(self) -> bool:
        """Whether it goes on from a checkpoint."""

    def stop(self, reason: CallError) -> None:
        """End it."""


class ResumableCalls:
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

    def require_resumable(self, key: bytes) -> None:
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


class Resumption:
    """All resumable calls of a server.

    Args:
        checkpoints: makes and reads them.
        max_age: seconds that they are good for.
        metrics: counts them.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        max_age: float,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._checkpoints = checkpoints
        self._most_seconds = max_age / 3
        self._metrics = metrics
        self._clock = clock
        self.ledger = ResumableCalls(max_age + MAX_CLOCK_SKEW_SECONDS, clock)

    def open(
        self, wanted: pb.StreamConfig, caller: Caller, models: ModelRegistry
    ) -> tuple[Resumed, ServedModel]:
        """The call that a stream wants to go on with, and the model that it is on.

        Raises:
            CallError: it may not; see :mod:`streamer.checkpoint.serialization`.
        """

        def metadata_of(digest: str) -> Metadata | None:
            model = models.by_digest(digest)
            return model.metadata if model else None

        resumed = self._checkpoints.open(wanted.resume_from, metadata_of)
        require_same_call(resumed.identity, wanted, _proven(caller))
        self.ledger.require_resumable(resumed.identity.key)
        model = models.by_digest(resumed.identity.student)
        assert model is not None  # noqa: S101 - it had metadata, and nothing was awaited since
        return resumed, model

    def checkpoints(
        self,
        config: CallConfig,
        wanted: pb.StreamConfig,
        caller: Caller,
        model: ServedModel,
        resumed: Resumed | None,
    ) -> CheckpointSchedule | None:
        """Of a call that asks for checkpoints."""
        if config.checkpoint_seconds is None:
            return None
        identity = CallIdentity(
            key=resumed.identity.key if resumed else new_call_key(),
            student=model.digest,
            caller=_proven(caller),
            call_id=config.call_id,
            config=resumed.identity.config if resumed else wanted,
        )
        return CheckpointSchedule(
            identity,
            config.checkpoint_seconds,
            self._most_seconds,
            self._checkpoints,
            self._metrics,
            self._clock,
        )

    def began(self, call: Running) -> None:
        """A call has its stream; takes it from an older one."""
        if call.checkpoints is not None:
            self.ledger.began(call.checkpoints.identity.key, call)
        if call.resumed:
            self._metrics.record_resumption()

    def ended(self, call: Running, *, well: bool) -> None:
        """The stream of a call is over, with its final predictions or without."""
        if call.checkpoints is not None:
            self.ledger.ended(call.checkpoints.identity.key, call, well=well)


def _proven(caller: Caller) -> str:
    """An address proves nothing, and a gateway that lost its server may come from another."""
    return caller.identity if caller.proven else ""
