"""Calls that survive a server: who may go on with which call."""

from __future__ import annotations

from collections.abc import Callable

from streamer.call import Call
from streamer.checkpoint import CallIdentity, Checkpoints, Resumed, must_belong, new_call_key
from streamer.keeper import Keeper
from streamer.ledger import Ledger
from streamer.metadata import Metadata
from streamer.models import Models, ServedModel
from streamer.operation.metrics import Metrics
from streamer.rpc import voicecohort_pb2 as pb
from streamer.security.identity import Caller
from streamer.security.sealing import CLOCK_SKEW
from streamer.session import CallConfig


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
        self.ledger = Ledger(max_age + CLOCK_SKEW, clock)

    def open(
        self, wanted: pb.StreamConfig, caller: Caller, models: Models
    ) -> tuple[Resumed, ServedModel]:
        """The call that a stream wants to go on with, and the model that it is on.

        Raises:
            CallError: it may not; see :mod:`streamer.checkpoint`.
        """

        def metadata_of(digest: str) -> Metadata | None:
            model = models.by_digest(digest)
            return model.metadata if model else None

        resumed = self._checkpoints.open(wanted.resume_from, metadata_of)
        must_belong(resumed.identity, wanted, _proven(caller))
        self.ledger.must_not_be_over(resumed.identity.key)
        model = models.by_digest(resumed.identity.student)
        assert model is not None  # noqa: S101 - it had metadata, and nothing was awaited since
        return resumed, model

    def keeper(
        self,
        config: CallConfig,
        wanted: pb.StreamConfig,
        caller: Caller,
        model: ServedModel,
        resumed: Resumed | None,
    ) -> Keeper | None:
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
        return Keeper(
            identity,
            config.checkpoint_seconds,
            self._most_seconds,
            self._checkpoints,
            self._metrics,
            self._clock,
        )

    def began(self, call: Call) -> None:
        """A call has its stream; takes it from an older one."""
        if call.keeper is not None:
            self.ledger.began(call.keeper.identity.key, call)
        if call.resumed:
            self._metrics.resumed()

    def ended(self, call: Call, *, well: bool) -> None:
        """The stream of a call is over, with its final predictions or without."""
        if call.keeper is not None:
            self.ledger.ended(call.keeper.identity.key, call, well=well)


def _proven(caller: Caller) -> str:
    """An address proves nothing, and a gateway that lost its server may come from another."""
    return caller.identity if caller.proven else ""
