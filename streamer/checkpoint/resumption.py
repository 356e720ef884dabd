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

MAX_ENDED = 65_536
"""Ended calls that are remembered: 5 minutes of 200 a second. The oldest are dropped first."""


class CheckpointSchedule:
    """When the checkpoints of one call are due, and what they are sealed with.

    Args:
        identity: that they are bound to.
        interval: seconds of audio between two.
        max_seconds: seconds of time between two: a silent call must not be left with a checkpoint
            that is too old.
        checkpoints: seals them.
        metrics: counts them.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        identity: CallIdentity,
        interval: float,
        max_seconds: float,
        checkpoints: Checkpoints,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self.identity = identity
        self._interval = interval
        self._max_seconds = max_seconds
        self._checkpoints = checkpoints
        self._metrics = metrics
        self._clock = clock
        self._next_audio = interval
        self._last = clock()

    def due(self, audio_seconds: float) -> bool:
        """Whether a checkpoint is due, the call being so long."""
        return audio_seconds >= self._next_audio

    @property
    def overdue(self) -> bool:
        """Whether the last checkpoint is old, whatever was received since."""
        return self._clock() - self._last >= self._max_seconds

    def requested(self, audio_seconds: float) -> None:
        """Note that a checkpoint was requested, the call being so long."""
        self._next_audio = audio_seconds + self._interval
        self._last = self._clock()

    def seal(self, state: CallState) -> bytes:
        """Seal a checkpoint; to be called when it is sent."""
        sealed = self._checkpoints.seal(self.identity, state)
        self._metrics.record_checkpoint(len(sealed))
        return sealed


class OpenCall(Protocol):
    """A call with an open stream."""

    @property
    def checkpoint_schedule(self) -> CheckpointSchedule | None:
        """None if the call requested no checkpoints."""

    @property
    def resumed(self) -> bool:
        """Whether the call continues from a checkpoint."""

    def stop(self, reason: CallError) -> None:
        """End the call."""


class ResumableCalls:
    """Calls by the key that all checkpoints of a call have.

    Args:
        keep_seconds: how long an ended call is remembered: as long as a checkpoint of it is valid.
        clock: seconds, monotonic.
    """

    def __init__(self, keep_seconds: float, clock: Callable[[], float]) -> None:
        self._keep_seconds = keep_seconds
        self._clock = clock
        self._running: dict[bytes, OpenCall] = {}
        self._ended: dict[bytes, float] = {}  # time of the end, the oldest first

    def __len__(self) -> int:
        """Calls that are remembered."""
        return len(self._running) + len(self._ended)

    def require_resumable(self, key: bytes) -> None:
        """Raise FailedPrecondition for a call that has had its final predictions here."""
        self._drop_old()
        if key in self._ended:
            raise FailedPrecondition(
                "config.resume_from",
                "it is used up: the call has had its final predictions",
                reason="checkpoint",
            )

    def register(self, key: bytes, call: OpenCall) -> None:
        """Give the call to a new stream; one that had it before ends with ABORTED."""
        before = self._running.get(key)
        self._running[key] = call
        if before is not None:
            before.stop(TakenOver())

    def unregister(self, key: bytes, call: OpenCall, *, complete: bool) -> None:
        """Note that the stream of ``call`` has ended.

        Args:
            key: of the call.
            call: as given to :meth:`register`.
            complete: with its final predictions; otherwise it may be resumed.
        """
        if self._running.get(key) is not call:
            return  # another stream has it
        del self._running[key]
        if complete:
            self._ended[key] = self._clock()
            self._drop_old()

    def _drop_old(self) -> None:
        oldest = self._clock() - self._keep_seconds
        while self._ended:
            key = next(iter(self._ended))
            if self._ended[key] > oldest and len(self._ended) <= MAX_ENDED:
                return
            del self._ended[key]


class Resumption:
    """Resumable calls of a server.

    Args:
        checkpoints: seals and opens them.
        max_age: seconds that a checkpoint is valid.
        metrics: counts checkpoints and resumed calls.
        clock: seconds, monotonic.

    Attributes:
        calls: that can be resumed, or could.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        max_age: float,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._checkpoints = checkpoints
        self._max_seconds = max_age / 3
        self._metrics = metrics
        self._clock = clock
        self.calls = ResumableCalls(max_age + MAX_CLOCK_SKEW_SECONDS, clock)

    def open(
        self, requested: pb.StreamConfig, caller: Caller, models: ModelRegistry
    ) -> tuple[Resumed, ServedModel]:
        """Open the checkpoint of a config; the call to resume and its model.

        Raises:
            CallError: the caller may not resume it; see :mod:`streamer.checkpoint.serialization`.
        """

        def metadata_of(digest: str) -> Metadata | None:
            model = models.by_digest(digest)
            return model.metadata if model else None

        resumed = self._checkpoints.open(requested.resume_from, metadata_of)
        require_same_call(resumed.identity, requested, _proven(caller))
        self.calls.require_resumable(resumed.identity.key)
        model = models.by_digest(resumed.identity.model_digest)
        assert model is not None  # noqa: S101 - it had metadata, and nothing was awaited since
        return resumed, model

    def schedule(
        self,
        config: CallConfig,
        requested: pb.StreamConfig,
        caller: Caller,
        model: ServedModel,
        resumed: Resumed | None,
    ) -> CheckpointSchedule | None:
        """Schedule of a call's checkpoints; None if it requests none."""
        if config.checkpoint_seconds is None:
            return None
        identity = CallIdentity(
            key=resumed.identity.key if resumed else new_call_key(),
            model_digest=model.digest,
            caller=_proven(caller),
            call_id=config.call_id,
            config=resumed.identity.config if resumed else requested,
        )
        return CheckpointSchedule(
            identity,
            config.checkpoint_seconds,
            self._max_seconds,
            self._checkpoints,
            self._metrics,
            self._clock,
        )

    def register(self, call: OpenCall) -> None:
        """Note that a call has a stream; an older stream of it ends."""
        if call.checkpoint_schedule is not None:
            self.calls.register(call.checkpoint_schedule.identity.key, call)
        if call.resumed:
            self._metrics.record_resumption()

    def unregister(self, call: OpenCall, *, complete: bool) -> None:
        """Note that a call's stream has ended, with its final predictions or without."""
        if call.checkpoint_schedule is not None:
            self.calls.unregister(call.checkpoint_schedule.identity.key, call, complete=complete)


def _proven(caller: Caller) -> str:
    """Identity of a caller; empty for an address, which proves nothing and may change."""
    return caller.identity if caller.proven else ""
