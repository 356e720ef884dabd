"""Metrics of the server for Prometheus. Numbers only: no label names a call or a caller."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Protocol
from wsgiref.simple_server import WSGIServer

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    start_http_server,
)

from streamer.observability.tracing import CallTotals
from streamer.rpc import voicecohort_pb2 as pb

_STEP_SECONDS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.5, 2.0)
_WAIT_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
_CHECKPOINT_BYTES = (8192, 16384, 24576, 32768, 49152, 65536, 98304, 131072, 262144)
_LATENCY_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_BATCH = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

_ALERTED = (
    ("INTERNAL", "fault"),
    ("RESOURCE_EXHAUSTED", "lag"),
    ("RESOURCE_EXHAUSTED", "unread"),
    ("DEADLINE_EXCEEDED", "unread"),
)


class Expiring(Protocol):
    """Certificates that may be replaced while the server runs."""

    expiry: dict[str, float]
    """Unix time at which the first certificate of a file expires, by file."""


def _expiry_of(certificates: Expiring, file: str) -> float:
    return certificates.expiry[file]


@dataclass
class ReportedTotals:
    """Totals of one call that the counters already include, in seconds."""

    audio: float = 0.0
    classified: float = 0.0
    speech: float = 0.0
    lost: float = 0.0

    @classmethod
    def of(cls, session: CallTotals) -> ReportedTotals:
        """Return the totals of a call up to now."""
        return cls(
            audio=session.audio_seconds,
            classified=session.classified_seconds,
            speech=session.speech_seconds,
            lost=session.lost_seconds,
        )


class Metrics:
    """Metrics of one server, in a registry of its own; safe to use from any thread."""

    def __init__(self) -> None:
        # Creation times of counters carry no information: all are as old as the process.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._server: WSGIServer | None = None

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"voicecohort_{name}", text, labels, registry=self.registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"voicecohort_{name}", text, buckets=buckets, registry=self.registry)

        self._open = Gauge(
            "voicecohort_calls_open", "Streams that are open.", registry=self.registry
        )
        self._draining = Gauge(
            "voicecohort_draining", "1 while new calls are refused.", registry=self.registry
        )
        self._delay = Gauge(
            "voicecohort_delay_seconds",
            "Delay of the event loop, averaged over half a second.",
            registry=self.registry,
        )
        self._demand = Gauge(
            "voicecohort_demand_ratio",
            "Share of the available CPU time that live audio takes, averaged over half a second.",
            registry=self.registry,
        )
        self._expiry = Gauge(
            "voicecohort_certificate_expiry_timestamp_seconds",
            "Unix time at which the first certificate of a file in use expires; none without TLS.",
            ("file",),
            registry=self.registry,
        )
        build = Info(
            "voicecohort_build", "Versions of the server and of gRPC.", registry=self.registry
        )
        build.info({"version": version("voicecohort"), "grpc": version("grpcio")})
        self._model = Info("voicecohort_model", "The model in use.", registry=self.registry)
        self._ended = counter(
            "calls", "Calls that started, by status and reason of their end.", "status", "reason"
        )
        self._refused = counter(
            "refusals", "Streams that ended before a call started.", "status", "reason"
        )
        # Series with an alert exist from the start: Prometheus sees no increase in a series that
        # appears with its first event.
        for status, reason in _ALERTED:
            self._ended.labels(status, reason)
        self._audio = counter("audio_seconds", "Audio received, lost audio included.")
        self._classified = counter(
            "classified_seconds", "Audio of classified channels, each counted by itself."
        )
        self._speech = counter("speech_seconds", "Speech that passed the speech gate.")
        self._lost = counter("lost_seconds", "Audio that never arrived.")
        self._decisions = counter(
            "decisions",
            "Final predictions by task and label; undecided is a label.",
            "task",
            "label",
        )
        self._batch = histogram("batch_blocks", "Blocks in one step of the model.", _BATCH)
        self._step = histogram("step_seconds", "Time of one step of the model.", _STEP_SECONDS)
        self._wait = histogram(
            "queue_seconds",
            "Time that the oldest block of a batch waited for its step.",
            _WAIT_SECONDS,
        )
        self._resumed = counter("calls_resumed", "Calls resumed from a checkpoint.")
        self._checkpoints = counter("checkpoints", "Checkpoints sent.")
        self._checkpoint_bytes = histogram(
            "checkpoint_bytes", "Size of a checkpoint.", _CHECKPOINT_BYTES
        )
        self._latency = histogram(
            "prediction_latency_seconds",
            "Time from the audio message that makes a prediction due to its write.",
            _LATENCY_SECONDS,
        )
        self._spans = counter("spans", "Spans of calls, by outcome of their export.", "outcome")
        self._failed = counter("inference_failures", "Blocks for which inference failed.")
        self._healthy = Gauge(
            "voicecohort_healthy", "1 while inference works, else 0.", registry=self.registry
        )
        self._healthy.set(1)
        self._swaps = counter("model_swaps", "Reloads of the model file by outcome.", "outcome")
        for outcome in ("changed", "unchanged", "failed"):
            self._swaps.labels(outcome)

    def set_model(self, model_id: str, provider: str) -> None:
        """The model in use."""
        self._model.info({"model_id": model_id, "provider": provider})

    def record_model_reload(self, outcome: str) -> None:
        """Count a reload of the model file: "changed", "unchanged" or "failed"."""
        self._swaps.labels(outcome).inc()

    def set_healthy(self, healthy: bool) -> None:
        """Publish whether inference works."""
        self._healthy.set(healthy)

    def stream_opened(self) -> None:
        """Add one open stream."""
        self._open.inc()

    def stream_closed(self) -> None:
        """Remove one open stream."""
        self._open.dec()

    def record_refusal(self, status: str, reason: str, count: int = 1) -> None:
        """Count streams refused before a call started; see ``CallError`` for status and reason."""
        self._refused.labels(status, reason).inc(count)

    def record_failed_handshakes(self, count: int) -> None:
        """Count failed TLS handshakes as refusals; the client's gRPC reports UNAVAILABLE."""
        self.record_refusal("UNAVAILABLE", "handshake", count)

    def record_call_end(self, status: str, reason: str) -> None:
        """Count the end of a call, OK or not."""
        self._ended.labels(status, reason).inc()

    def record_resumption(self) -> None:
        """Count a call resumed from a checkpoint."""
        self._resumed.inc()

    def record_checkpoint(self, size_bytes: int) -> None:
        """Count a checkpoint and its size."""
        self._checkpoints.inc()
        self._checkpoint_bytes.observe(size_bytes)

    def set_load(self, delay: float, demand: float) -> None:
        """Publish the delay of the event loop in seconds and the CPU share of live audio."""
        self._delay.set(delay)
        self._demand.set(demand)

    def set_draining(self) -> None:
        """Publish that new calls are refused from now on."""
        self._draining.set(1)

    def add_totals(self, calls: Iterable[tuple[CallTotals, ReportedTotals]]) -> None:
        """Add the growth of each call's totals to the counters and update its reported totals."""
        audio = classified = speech = lost = 0.0
        for session, before in calls:
            now = ReportedTotals.of(session)
            audio += now.audio - before.audio
            classified += now.classified - before.classified
            # After a discard a channel's speech starts from 0 again.
            speech += now.speech - before.speech if now.speech >= before.speech else now.speech
            lost += now.lost - before.lost
            before.audio, before.classified = now.audio, now.classified
            before.speech, before.lost = now.speech, now.lost
        self._audio.inc(audio)
        self._classified.inc(classified)
        self._speech.inc(speech)
        self._lost.inc(lost)

    def record_final_prediction(self, prediction: pb.Prediction) -> None:
        """Count the labels of a final prediction."""
        for task in ("gender", "age_group", "age_band"):
            label = getattr(prediction, task).label or "undecided"
            self._decisions.labels(task, label).inc()

    def record_prediction_latency(self, seconds: float) -> None:
        """Record the time from an audio message to the write of its running prediction."""
        self._latency.observe(seconds)

    def record_spans(self, spans: int, outcome: str) -> None:
        """Count spans that reached the collector ("sent") or did not ("lost")."""
        self._spans.labels(outcome).inc(spans)

    def watch_certificates(self, certificates: Expiring) -> None:
        """Publish the expiry of the certificates in use."""
        for file in certificates.expiry:
            # Read at every scrape: certificates change without a restart.
            self._expiry.labels(file).set_function(partial(_expiry_of, certificates, file))

    def record_batch(
        self, blocks: int, queue_seconds: float, step_seconds: float, failures: int
    ) -> None:
        """Record a batch; called on the thread of the engine.

        Args:
            blocks: in the batch.
            queue_seconds: time that the oldest block waited.
            step_seconds: time of the step.
            failures: blocks for which inference failed.
        """
        self._batch.observe(blocks)
        self._wait.observe(queue_seconds)
        self._step.observe(step_seconds)
        if failures:
            self._failed.inc(failures)

    def serve(self, host: str, port: int) -> int:
        """Serve ``GET /metrics`` on a thread of its own until :meth:`stop`; return the bound port.

        Raises:
            OSError: the address cannot be bound.
        """
        self._server, _ = start_http_server(port, host, self.registry)
        return int(self._server.server_port)

    def stop(self) -> None:
        """Stop serving metrics."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
