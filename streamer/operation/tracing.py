"""What a call tells of itself to whoever traces it; without tracing nobody listens.

Who listens is :mod:`streamer.operation.spans`; :mod:`streamer.operation.trace_export` begins it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from streamer.rpc import voicecohort_pb2 as pb

Metadata = Iterable[tuple[str, str | bytes]]
"""Of a gRPC request."""


class Config(Protocol):
    """What is told of an accepted call, see :class:`streamer.session.CallConfig`."""

    @property
    def call_id(self) -> str:
        """The gateway's name for it."""

    @property
    def sample_rate(self) -> int:
        """Hz."""

    @property
    def ignored(self) -> tuple[bool, ...]:
        """Per channel, True if it is not classified."""


class Session(Protocol):
    """What is told of an ended call, in seconds."""

    @property
    def audio_seconds(self) -> float:
        """Of audio, lost audio included."""

    @property
    def speech_seconds(self) -> float:
        """Of speech, over all channels, since the last discard."""

    @property
    def lost_seconds(self) -> float:
        """Of audio that never arrived."""


class CallTrace:
    """The trace of one stream; this one remembers nothing.

    Attributes:
        trace_id: 32 hexadecimal digits as W3C Trace Context has them, empty without tracing.
    """

    def __init__(self, trace_id: str = "") -> None:
        self.trace_id = trace_id

    @property
    def log_fields(self) -> dict[str, str]:
        """For every line of the log about this stream."""
        return {"trace_id": self.trace_id} if self.trace_id else {}

    def accepted(self, config: Config, encoding: str, model_id: str, *, resumed: bool) -> None:
        """The stream became a call."""

    def changed(self, action: str, channels: Sequence[int]) -> None:
        """A discard, hold or resume of these channels; of all if none are named."""

    def sent(self, response: pb.StreamClassifyResponse) -> None:
        """A response was written."""

    def ended(self, status: str, reason: str, session: Session | None) -> None:
        """The stream is over.

        Args:
            status: name of the gRPC status code.
            reason: the word that metrics count it by.
            session: None if it never became a call.
        """


NO_TRACE = CallTrace()


class Tracing:
    """Who makes the traces of calls; this one makes none."""

    def call(self, metadata: Metadata) -> CallTrace:  # noqa: ARG002 - a tracer looks for its parent
        """The trace of a stream that was opened with this metadata."""
        return NO_TRACE

    def stop(self) -> None:
        """Send what is left, within a few seconds."""
