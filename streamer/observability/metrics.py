"""What the server counts for Prometheus. Numbers only: nothing here names a call or a caller."""

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

from streamer.rpc import voicecohort_pb2 as pb

_STEP_SECONDS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.5, 2.0)
_WAIT_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
_CHECKPOINT_BYTES = (8192, 16384, 24576, 32768, 49152, 65536, 98304, 131072, 262144)
_LATENCY_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_BATCH = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

_WATCHED = (
    ("INTERNAL", "fault"),
    ("RESOURCE_EXHAUSTED", "lag"),
    ("RESOURCE_EXHAUSTED", "unread"),
    ("DEADLINE_EXCEEDED", "unread"),
)


class Session(Protocol):
    """What is counted of a call, in seconds since it began."""

    @property
    def audio_seconds(self) -> float:
        """Of audio, lost audio included."""

    @property
    def classified_seconds(self) -> float:
        """Of audio of the classified channels, each counted by itself."""

    @property
    def speech_seconds(self) -> float:
        """Of speech, over all channels, since the last discard."""

    @property
    def lost_seconds(self) -> float:
        """Of audio that never arrived."""


class Expiring(Protocol):
    """Certificates that may be replaced."""

    expiry: dict[str, float]
    """When the first certificate of a file expires, Unix time, by file."""


def _expiry_of(certificates: Expiring, file: str) -> float:
    return certificates.expiry[file]


@dataclass
class ReportedTotals:
    """What of one call has been counted already."""

    audio: float = 0.0
    classified: float = 0.0
    speech: float = 0.0
    lost: float = 0.0

    @classmethod
    def of(cls, session: Session) -> ReportedTotals:
        """All that a call has heard so far."""
        return cls(
            audio=session.audio_seconds,
            classified=session.classified_seconds,
            speech=session.speech_seconds,
            lost=session.lost_seconds,
        )


class Metrics:
    """All metrics of one server, in a registry of its own.

    Safe to use from any thread.
    """

    def __init__(self) -> None:
        # When a counter was made says nothing here: all are as old as the process.
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
            "How far the server is behind, averaged over half a second.",
            registry=self.registry,
        )
        self._demand = Gauge(
            "voicecohort_demand_ratio",
            "Share of the CPU time it could have that live audio takes, averaged likewise.",
            registry=self.registry,
        )
        self._expiry = Gauge(
            "voicecohort_certificate_expiry_timestamp_seconds",
            "When the first certificate of a file in use expires, Unix time; none without TLS.",
            ("file",),
            registry=self.registry,
        )
        build = Info("voicecohort_build", "What runs.", registry=self.registry)
        build.info({"version": version("voicecohort"), "grpc": version("grpcio")})
        self._model = Info("voicecohort_model", "The student in use.", registry=self.registry)
        self._ended = counter("calls", "Calls that began, by how they ended.", "status", "reason")
        self._refused = counter("refusals", "Streams that never became a call.", "status", "reason")
        # What an alert watches is there before the first of its kind: a rise from nothing is none.
        for status, reason in _WATCHED:
            self._ended.labels(status, reason)
        self._audio = counter("audio_seconds", "Audio received, lost audio included.")
        self._classified = counter(
            "classified_seconds", "Audio of classified channels, each counted by itself."
        )
        self._speech = counter("speech_seconds", "Speech that the gate let through.")
        self._lost = counter("lost_seconds", "Audio that never arrived.")
        self._decisions = counter(
            "decisions",
            "Final predictions by task and label; undecided is a label.",
            "task",
            "label",
        )
        self._batch = histogram("batch_blocks", "Blocks advanced in one student step.", _BATCH)
        self._step = histogram("step_seconds", "Time of one student step.", _STEP_SECONDS)
        self._wait = histogram(
            "queue_seconds",
            "Age of the oldest block of a batch when its step began.",
            _WAIT_SECONDS,
        )
        self._resumed = counter("calls_resumed", "Calls that went on from a checkpoint.")
        self._checkpoints = counter("checkpoints", "Checkpoints sent.")
        self._checkpoint_bytes = histogram(
            "checkpoint_bytes", "Length of a checkpoint.", _CHECKPOINT_BYTES
        )
        self._latency = histogram(
            "prediction_latency_seconds",
            "From the audio message that made a running prediction due until it was written.",
            _LATENCY_SECONDS,
        )
        self._spans = counter("spans", "Spans of calls, by what became of them.", "outcome")
        self._failed = counter("inference_failures", "Blocks that the student failed on.")
        self._healthy = Gauge(
            "voicecohort_healthy", "1 while the student answers.", registry=self.registry
        )
        self._healthy.set(1)
        self._swaps = counter("model_swaps", "Reloads of the model file by outcome.", "outcome")
        for outcome in ("changed", "unchanged", "failed"):
            self._swaps.labels(outcome)

    def model(self, model_id: str, provider: str) -> None:
        """The student in use."""
        self._model.info({"model_id": model_id, "provider": provider})

    def swapped(self, outcome: str) -> None:
        """The model file was loaded again: "changed", "unchanged" or "failed"."""
        self._swaps.labels(outcome).inc()

    def healthy(self, healthy: bool) -> None:
        """Whether the student answers."""
        self._healthy.set(healthy)

    def opened(self) -> None:
        """A stream was opened."""
        self._open.inc()

    def closed(self) -> None:
        """A stream was closed."""
        self._open.dec()

    def refused(self, status: str, reason: str, count: int = 1) -> None:
        """Streams were turned away before a call began; see ``CallError`` for both words."""
        self._refused.labels(status, reason).inc(count)

    def handshakes_failed(self, count: int) -> None:
        """Connections were turned away: of no use for a call, says the client's gRPC."""
        self.refused("UNAVAILABLE", "handshake", count)

    def ended(self, status: str, reason: str) -> None:
        """A call ended, well or not."""
        self._ended.labels(status, reason).inc()

    def resumed(self) -> None:
        """A call went on from a checkpoint."""
        self._resumed.inc()

    def checkpoint(self, length: int) -> None:
        """A checkpoint of so many bytes is sent."""
        self._checkpoints.inc()
        self._checkpoint_bytes.observe(length)

    def load(self, delay: float, demand: float) -> None:
        """Seconds that the server is behind, and the share of the CPU that live audio takes."""
        self._delay.set(delay)
        self._demand.set(demand)

    def draining(self) -> None:
        """New calls are refused from now on."""
        self._draining.set(1)

    def add_totals(self, calls: Iterable[tuple[Session, ReportedTotals]]) -> None:
        """Count what calls have heard; what is counted of each is brought up to date."""
        audio = classified = speech = lost = 0.0
        for session, before in calls:
            now = ReportedTotals.of(session)
            audio += now.audio - before.audio
            classified += now.classified - before.classified
            # After a discard a channel's speech starts from nothing again.
            speech += now.speech - before.speech if now.speech >= before.speech else now.speech
            lost += now.lost - before.lost
            before.audio, before.classified = now.audio, now.classified
            before.speech, before.lost = now.speech, now.lost
        self._audio.inc(audio)
        self._classified.inc(classified)
        self._speech.inc(speech)
        self._lost.inc(lost)

    def decided(self, prediction: pb.Prediction) -> None:
        """A final prediction was made."""
        for task in ("gender", "age_group", "age_band"):
            label = getattr(prediction, task).label or "undecided"
            self._decisions.labels(task, label).inc()

    def predicted(self, seconds: float) -> None:
        """A running prediction was written, so long after its audio message arrived."""
        self._latency.observe(seconds)

    def exported(self, spans: int, outcome: str) -> None:
        """Spans went to the collector ("sent") or could not ("lost")."""
        self._spans.labels(outcome).inc(spans)

    def certificates(self, certificates: Expiring) -> None:
        """Watch the certificates in use."""
        for file in certificates.expiry:
            # PendingUpdate for at every scrape: they change without a restart.
            self._expiry.labels(file).set_function(partial(_expiry_of, certificates, file))

    def stepped(self, blocks: int, waited: float, took: float, failures: int) -> None:
        """The engine advanced a batch; told on its thread.

        Args:
            blocks: in the batch.
            waited: seconds since the oldest of them was queued.
            took: seconds of the step.
            failures: blocks that the student failed on.
        """
        self._batch.observe(blocks)
        self._wait.observe(waited)
        self._step.observe(took)
        if failures:
            self._failed.inc(failures)

    def serve(self, host: str, port: int) -> int:
        """Answer ``GET /metrics`` on a thread of its own until :meth:`stop`; the bound port.

        Raises:
            OSError: the address cannot be bound.
        """
        self._server, _ = start_http_server(port, host, self.registry)
        return int(self._server.server_port)

    def stop(self) -> None:
        """Answer no more."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
