"""Spans of calls, sent to an OpenTelemetry collector over OTLP/gRPC.

One span per stream; its parent is the caller's W3C ``traceparent``. Attributes of gRPC follow
OpenTelemetry's semantic conventions for RPC spans; others start with ``voicecohort.``. A span holds
no audio, state, posterior or request header.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from importlib.metadata import version

import structlog
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, format_trace_id
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from streamer.observability.tracing import CallTotals, CallTrace, Headers, TracedConfig, Tracing
from streamer.rpc import voicecohort_pb2 as pb

log = structlog.get_logger()

MAX_QUEUED_SPANS = 2048
"""Ended spans that wait for the collector; further ones drop the oldest."""
MAX_BATCH_SPANS = 256
EXPORT_INTERVAL_SECONDS = 2.0
EXPORT_TIMEOUT_SECONDS = 5.0
"""For one batch, retries included."""
STOP_SECONDS = 3.0
"""For the remaining spans when the server stops; later they are lost."""
LOG_INTERVAL_SECONDS = 60.0
"""Between two log lines about a collector that does not respond."""

METHOD = f"{pb.DESCRIPTOR.services_by_name['ClassifierService'].full_name}/StreamClassify"
SERVER_ERRORS = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)
"""Codes that make a server's span an error, by the semantic conventions for gRPC."""
TASKS = ("gender", "age_group", "age_band")


class CallSpan(CallTrace):
    """One stream as a span."""

    def __init__(self, span: Span) -> None:
        super().__init__(format_trace_id(span.get_span_context().trace_id))
        self._span = span
        self._decided: set[tuple[int, str]] = set()
        self._checkpoints = 0

    def _event(self, name: str, **attributes: AttributeValue) -> None:
        self._span.add_event(name, {f"voicecohort.{key}": v for key, v in attributes.items()})

    def accepted(
        self, config: TracedConfig, encoding: str, model_id: str, *, resumed: bool
    ) -> None:
        """Set the attributes of the call and add its first event."""
        self._span.set_attributes(
            {
                "voicecohort.call.id": config.call_id,
                "voicecohort.call.encoding": encoding,
                "voicecohort.call.sample_rate": config.sample_rate,
                "voicecohort.call.channels": len(config.ignored),
                "voicecohort.call.resumed": resumed,
                "voicecohort.model.id": model_id,
            }
        )
        self._event("resumed" if resumed else "started")

    def changed(self, action: str, channels: Sequence[int]) -> None:
        """Add an event; after a discard the next decision of a channel counts as its first."""
        self._event(action, channels=list(channels))
        if action == "discard":
            self._decided = {d for d in self._decided if channels and d[0] not in channels}

    def sent(self, response: pb.StreamClassifyResponse) -> None:
        """Add an event for a channel's first decision on a task and for the first checkpoint."""
        kind = response.WhichOneof("message")
        if kind == "prediction":
            self._add_decisions(response.prediction)
        elif kind == "checkpoint":
            if not self._checkpoints:
                self._event("checkpoint", sequence=response.checkpoint.sequence)
            self._checkpoints += 1

    def _add_decisions(self, prediction: pb.Prediction) -> None:
        for task in TASKS:
            label = getattr(prediction, task).label
            decision = (prediction.channel, task)
            if label and decision not in self._decided:
                self._decided.add(decision)
                speech = prediction.speech_time
                self._event(
                    "decision",
                    channel=prediction.channel,
                    task=task,
                    label=label,
                    speech_seconds=speech.seconds + speech.nanos / 1e9,
                )

    def ended(self, status: str, reason: str, totals: CallTotals | None) -> None:
        """Close the span and queue it for the collector."""
        attributes: dict[str, AttributeValue] = {
            "rpc.response.status_code": status,
            "voicecohort.reason": reason,
        }
        if totals is not None:
            attributes |= {
                "voicecohort.call.audio_seconds": round(totals.audio_seconds, 3),
                "voicecohort.call.speech_seconds": round(totals.speech_seconds, 3),
                "voicecohort.call.lost_seconds": round(totals.lost_seconds, 3),
                "voicecohort.call.checkpoints": self._checkpoints,
            }
        if status in SERVER_ERRORS:
            attributes["error.type"] = status
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.set_attributes(attributes)
        self._span.end()


class Spans(Tracing):
    """Tracing by OpenTelemetry; arguments as in :func:`~streamer.observability.tracing.tracing_to`.

    Headers and certificates for the collector come from OpenTelemetry's environment variables,
    such as OTEL_EXPORTER_OTLP_HEADERS and OTEL_EXPORTER_OTLP_CERTIFICATE.
    """

    def __init__(
        self, endpoint: str, *, insecure: bool, ratio: float, on_export: Callable[[int, str], None]
    ) -> None:
        _log_warnings()
        on_export(0, "lost")  # creates the series, so that the first loss is an increase
        self._exporter = OTLPSpanExporter(
            endpoint, insecure=insecure, timeout=EXPORT_TIMEOUT_SECONDS
        )
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(ratio)),
            resource=Resource.create(
                {
                    "service.name": "voicecohort",
                    "service.version": version("voicecohort"),
                    "service.instance.id": str(uuid.uuid4()),
                }
            ),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(
                _CountingExporter(self._exporter, on_export),
                max_queue_size=MAX_QUEUED_SPANS,
                max_export_batch_size=MAX_BATCH_SPANS,
                schedule_delay_millis=EXPORT_INTERVAL_SECONDS * 1000,
            )
        )
        self._tracer = self._provider.get_tracer("voicecohort", version("voicecohort"))
        self._propagator = TraceContextTextMapPropagator()

    def call(self, headers: Headers) -> CallTrace:
        """Start a span; its parent is the caller's if the headers hold a valid one."""
        names = {"traceparent", "tracestate"}
        carrier = {key: v for key, v in headers if key in names and isinstance(v, str)}
        span = self._tracer.start_span(
            METHOD,
            self._propagator.extract(carrier),
            SpanKind.SERVER,
            {"rpc.system.name": "grpc", "rpc.method": METHOD},
        )
        if span.is_recording():
            return CallSpan(span)
        return CallTrace(format_trace_id(span.get_span_context().trace_id))

    def stop(self) -> None:
        """Send the remaining spans; stop after ``STOP_SECONDS``."""
        # Ends the running export, its retries and the queued ones.
        timer = threading.Timer(STOP_SECONDS, self._exporter.shutdown)
        timer.start()
        try:
            self._provider.shutdown()
        finally:
            timer.cancel()


class _CountingExporter(SpanExporter):
    """Exporter that reports the outcome of each batch."""

    def __init__(self, exporter: OTLPSpanExporter, on_export: Callable[[int, str], None]) -> None:
        self._exporter = exporter
        self._on_export = on_export

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            sent = result is SpanExportResult.SUCCESS
            self._on_export(len(spans), "sent" if sent else "lost")
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


class WarningHandler(logging.Handler):
    """Writes OpenTelemetry's warnings to the server's log, at most one a minute.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(logging.WARNING)
        self._clock = clock
        self._next = clock()
        self._suppressed = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Log the record, or count it for the next line."""
        now = self._clock()
        if now < self._next:
            self._suppressed += 1
            return
        log.warning("tracing_failed", reason=record.getMessage(), suppressed=self._suppressed)
        self._next, self._suppressed = now + LOG_INTERVAL_SECONDS, 0


def _log_warnings() -> None:
    logger = logging.getLogger("opentelemetry")
    logger.propagate = False
    if not any(isinstance(handler, WarningHandler) for handler in logger.handlers):
        logger.addHandler(WarningHandler())
