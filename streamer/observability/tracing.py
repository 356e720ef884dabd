"""Interface of call tracing, and its null implementation for servers without tracing.

OpenTelemetry is an extra (``voicecohort[tracing]``). Only :mod:`streamer.observability.otlp`
imports it, and that module is imported only if spans are configured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from streamer.rpc import voicecohort_pb2 as pb

Headers = Iterable[tuple[str, str | bytes]]
"""Headers of a gRPC request."""


class TracedConfig(Protocol):
    """Fields of an accepted call's config, see :class:`streamer.session.session.CallConfig`."""

    @property
    def call_id(self) -> str:
        """The gateway's id of the call."""

    @property
    def sample_rate(self) -> int:
        """Sample rate in Hz."""

    @property
    def ignored(self) -> tuple[bool, ...]:
        """Per channel, True if the channel is not classified."""


class CallTotals(Protocol):
    """Totals of one call in seconds, for metrics and traces."""

    @property
    def audio_seconds(self) -> float:
        """Audio since the start, lost audio included."""

    @property
    def classified_seconds(self) -> float:
        """Audio of the classified channels, summed over channels."""

    @property
    def speech_seconds(self) -> float:
        """Speech over all channels since the last discard."""

    @property
    def lost_seconds(self) -> float:
        """Audio that never arrived."""


class CallTrace:
    """Trace of one stream; this implementation records nothing.

    Attributes:
        trace_id: 32 hexadecimal digits (W3C Trace Context), empty without tracing.
    """

    def __init__(self, trace_id: str = "") -> None:
        self.trace_id = trace_id

    @property
    def log_fields(self) -> dict[str, str]:
        """Fields for every log line about this stream."""
        return {"trace_id": self.trace_id} if self.trace_id else {}

    def accepted(
        self, config: TracedConfig, encoding: str, model_id: str, *, resumed: bool
    ) -> None:
        """Record that the stream became a call."""

    def changed(self, action: str, channels: Sequence[int]) -> None:
        """Record a discard, hold or resume of these channels; of all channels if empty."""

    def sent(self, response: pb.StreamClassifyResponse) -> None:
        """Record that a response was written."""

    def ended(self, status: str, reason: str, totals: CallTotals | None) -> None:
        """Record the end of the stream.

        Args:
            status: name of the gRPC status code.
            reason: reason code, as in the metrics.
            totals: None if the stream never became a call.
        """


NO_TRACE = CallTrace()


class Tracing:
    """Factory of call traces; this implementation makes none."""

    def call(self, headers: Headers) -> CallTrace:  # noqa: ARG002 - for subclasses
        """Return the trace of a stream opened with these headers."""
        return NO_TRACE

    def stop(self) -> None:
        """Send the remaining spans, within a few seconds."""


class TracingError(RuntimeError):
    """Spans are configured and cannot be made; the message is one line."""


def tracing_to(
    endpoint: str, *, insecure: bool, ratio: float, on_export: Callable[[int, str], None]
) -> Tracing:
    """Return tracing to an OpenTelemetry collector.

    Args:
        endpoint: HOST:PORT of the collector (OTLP over gRPC); empty for no tracing.
        insecure: plaintext instead of TLS.
        ratio: share of calls that are traced, 0 to 1; a caller's ``traceparent`` takes precedence.
        on_export: receives a number of spans and "sent" or "lost", on the exporter's thread.

    Raises:
        TracingError: the packages are not installed.
    """
    if not endpoint:
        return Tracing()
    try:
        from streamer.observability.otlp import Spans  # noqa: PLC0415 - optional, slow to import
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("opentelemetry"):
            raise
        raise TracingError(
            f"otlp_endpoint {endpoint}: tracing needs packages that are not installed: "
            f"pip install 'voicecohort[tracing]' ({error})"
        ) from error
    return Spans(endpoint, insecure=insecure, ratio=ratio, on_export=on_export)
