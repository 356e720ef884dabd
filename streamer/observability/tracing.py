"""What a call tells of itself to whoever traces it; without tracing nobody listens.

OpenTelemetry is an extra (``voicecohort[tracing]``): :mod:`streamer.observability.otlp` alone
imports it, and is itself imported when spans are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from streamer.rpc import voicecohort_pb2 as pb

Headers = Iterable[tuple[str, str | bytes]]
"""Of a gRPC request."""


class Config(Protocol):
    """What is told of an accepted call, see :class:`streamer.session.session.CallConfig`."""

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

    def call(self, metadata: Headers) -> CallTrace:  # noqa: ARG002 - a tracer looks for its parent
        """The trace of a stream that was opened with this metadata."""
        return NO_TRACE

    def stop(self) -> None:
        """Send what is left, within a few seconds."""


class TracingError(RuntimeError):
    """Spans are asked for and cannot be made; one line."""


def tracing_to(
    endpoint: str, *, insecure: bool, ratio: float, exported: Callable[[int, str], None]
) -> Tracing:
    """Tracing to an OpenTelemetry collector.

    Args:
        endpoint: HOST:PORT of its OTLP over gRPC; empty for no tracing.
        insecure: plaintext instead of TLS.
        ratio: share of the calls without a traced caller that are traced, 0 to 1.
        exported: called with a number of spans and "sent" or "lost", on a thread of its own.

    Raises:
        TracingError: the packages are not installed.
    """
    if not endpoint:
        return Tracing()
    try:
        from streamer.observability.otlp import Spans  # noqa: PLC0415 - an extra, and it costs
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("opentelemetry"):
            raise
        raise TracingError(
            f"otlp_endpoint {endpoint}: tracing needs packages that are not installed: "
            f"pip install 'voicecohort[tracing]' ({error})"
        ) from error
    return Spans(endpoint, insecure=insecure, ratio=ratio, exported=exported)
