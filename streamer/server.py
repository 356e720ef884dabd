"""Build a server from its settings; start, drain and stop it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from streamer.audio.vad_state import check_vad_state
from streamer.checkpoint.resumption import Resumption
from streamer.checkpoint.serialization import Checkpoints, max_sealed_bytes
from streamer.errors import Unhealthy
from streamer.inference.engine import Engine
from streamer.inference.model import OnnxModel
from streamer.inference.registry import ModelFile, ModelRegistry
from streamer.inference.watchdog import Watchdog
from streamer.observability.metrics import Metrics
from streamer.observability.tracing import tracing_to
from streamer.process.address import check_address
from streamer.rpc import voicecohort_pb2 as pb
from streamer.rpc import voicecohort_pb2_grpc as pb_grpc
from streamer.security.encryption import Keys, Sealer
from streamer.security.identity import Identities
from streamer.security.tls import Certificates, TlsFiles
from streamer.security.tokens import Tokens
from streamer.service import ClassifierService
from streamer.settings import ServerSettings
from streamer.transport.trunk import NAME as TRUNK_SERVICE
from streamer.transport.trunk import TrunkService

log = structlog.get_logger()

SERVICE = pb.DESCRIPTOR.services_by_name["ClassifierService"].full_name
WIDEST_BYTES_PER_SECOND = 16_000 * 2 * 2
"""linear16 at 16 kHz on two channels."""
LEAST_MESSAGE_BYTES = 1 << 20
"""Also where checkpoints are refused: the message must arrive to be refused with a status."""
SPARE_STREAMS = 100
"""What a connection may open beyond the calls of a server, to be refused at once, and for probes.
gRPC's own clients hold back what is beyond; others are cut off before they fill the memory."""
OPTIONS = (
    # A gateway whose host died never closes its connection: ping it once a minute.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.ping_timeout_ms", 20_000),  # what gRPC 1.85 goes by; it would wait 60 s
    # Gateways ping through long silences; gRPC would answer GOAWAY below five minutes.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
)


def _certificates(settings: ServerSettings) -> Certificates | None:
    """Certificates for TLS; None for plaintext. Raises TlsError."""
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    files = TlsFiles(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
    return Certificates(files)


def _resumption(settings: ServerSettings, metrics: Metrics) -> Resumption | None:
    """Resumption of calls, if keys are configured.

    Raises:
        KeysError: the keys cannot be used.
        VadStateError: the state of this build of the VAD cannot be copied.
    """
    if settings.checkpoint_keys is None:
        return None
    check_vad_state()
    sealer = Sealer(Keys(settings.checkpoint_keys), settings.checkpoint_max_age)
    return Resumption(
        Checkpoints(sealer), settings.checkpoint_max_age, metrics, clock=time.monotonic
    )


def _health_server(servicer: health.aio.HealthServicer) -> grpc.aio.Server:
    """Server of health checks alone."""
    server = grpc.aio.server(options=(*OPTIONS, ("grpc.so_reuseport", 0)))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    return server


class Server:
    """A server with all its parts.

    Args:
        settings: as given.
        shared: other processes listen on the same port. Otherwise a second server must fail.
        reload: set whenever the model file should be loaded again.

    Raises:
        ModelFileError: the model cannot be served.
        RuntimeError: the address cannot be bound, the certificates not served, the tokens or keys
            not used, or checkpoints not made.
    """

    def __init__(
        self, settings: ServerSettings, *, shared: bool = False, reload: asyncio.Event | None = None
    ) -> None:
        self.settings = settings
        self.port = 0
        self._shared = shared
        if not shared:
            check_address(settings.listen)
        for address in (settings.metrics_listen, settings.health_listen):
            if address:
                check_address(address)
        self._certificates = _certificates(settings)
        tokens = Tokens(settings.tokens) if settings.tokens else None
        self.metrics = Metrics()
        if self._certificates is not None:
            self.metrics.watch_certificates(self._certificates)
        self.tracing = tracing_to(
            settings.otlp_endpoint,
            insecure=settings.otlp_insecure,
            ratio=settings.otlp_sample_ratio,
            on_export=self.metrics.record_spans,
        )
        resumption = _resumption(settings, self.metrics)
        file = ModelFile(
            settings.model,
            settings.provider,
            settings.threads,
            _engines(settings, self.metrics),
        )
        self.models = ModelRegistry(
            file.load(),
            file,
            metrics=self.metrics,
            keep_seconds=settings.checkpoint_max_age if resumption else 0.0,
        )
        self.service = ClassifierService(
            self.models,
            settings,
            metrics=self.metrics,
            tracing=self.tracing,
            identities=Identities(tokens),
            resumption=resumption,
        )
        self._health = health.aio.HealthServicer()
        # A longer message than any valid one is not even read into memory.
        longest = max(
            round(settings.max_chunk_seconds * WIDEST_BYTES_PER_SECOND) + 1024,
            max_sealed_bytes(self.models.current.metadata) + 1024,
            LEAST_MESSAGE_BYTES,
        )
        self._server = grpc.aio.server(
            options=(
                *OPTIONS,
                ("grpc.so_reuseport", int(shared)),
                ("grpc.max_receive_message_length", longest),
                ("grpc.max_concurrent_streams", settings.max_calls + SPARE_STREAMS),
            )
        )
        pb_grpc.add_ClassifierServiceServicer_to_server(self.service, self._server)
        TrunkService(self.service, settings.max_calls, settings.idle_timeout).add_to(self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._health_port_server = _health_server(self._health) if settings.health_listen else None
        if tokens is None:  # gRPC's reflection lets in everyone
            names = (SERVICE, TRUNK_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, self._server)
        self._tasks: list[asyncio.Task[None]] = []
        self._reload = reload or asyncio.Event()
        self._draining = False
        self.over = asyncio.Event()
        """Set when the server should end, for whatever reason."""
        self.gave_up = False
        """It should end because inference does not recover."""

    @property
    def address(self) -> str:
        """HOST:PORT that is bound."""
        return f"{self.settings.listen.rpartition(':')[0]}:{self.port}"

    def bind(self) -> None:
        """Bind the port; connections wait until :meth:`start`."""
        listen = self.settings.listen
        if self._certificates is None:
            self.port = self._server.add_insecure_port(listen)
        else:
            self.port = self._server.add_secure_port(listen, self._certificates.credentials())

    async def start(self) -> None:
        """Serve calls, and metrics and health checks if configured."""
        self.bind()
        await self._server.start()
        metrics = self._serve_metrics()
        health_address = await self._serve_health()
        if self.settings.tokens is not None and self.settings.in_clear:
            log.warning("tokens_in_clear", address=self.address)
        watchdog = Watchdog(
            self.models,
            self.metrics,
            self._set_health,
            self._give_up,
            self.settings.unhealthy_exit_seconds,
        )
        for work in (self.service.supervisor.run(), watchdog.run(), self._reload_on_request()):
            self._tasks.append(asyncio.create_task(work))
        await self._set_health(True)
        log.info(
            "worker_serving" if self._shared else "serving",
            address=self.address,
            model=self.models.current.metadata.model_id,
            providers=self.models.current.providers,
            device=self.models.current.device,
            max_calls=self.settings.max_calls,
            metrics=metrics,
            health=health_address,
            security=self._security,
            tokens=self.settings.tokens is not None,
            checkpoints=self.settings.checkpoint_keys is not None,
        )

    def _serve_metrics(self) -> str:
        """Address of the metrics; empty if not configured."""
        host, _, port = self.settings.metrics_listen.rpartition(":")
        if not host:
            return ""
        bound = self.metrics.serve(host.strip("[]"), int(port))
        return f"http://{host}:{bound}/metrics"

    async def _serve_health(self) -> str:
        """Address of the separate port for health checks; empty if not configured."""
        if self._health_port_server is None:
            return ""
        port = self._health_port_server.add_insecure_port(self.settings.health_listen)
        await self._health_port_server.start()
        return f"{self.settings.health_listen.rpartition(':')[0]}:{port}"

    async def _set_health(self, healthy: bool) -> None:
        """Publish the health; a server that drains is NOT_SERVING."""
        response = health_pb2.HealthCheckResponse
        status = response.SERVING if healthy and not self._draining else response.NOT_SERVING
        for name in ("", SERVICE):
            await self._health.set(name, status)

    async def _reload_on_request(self) -> None:
        while True:
            await self._reload.wait()
            self._reload.clear()
            await self.models.reload()

    def _give_up(self) -> None:
        self.gave_up = True
        self.over.set()

    @property
    def _security(self) -> str:
        if self.settings.tls_certificate is None:
            return "plaintext"
        return "mutual TLS" if self.settings.tls_client_ca else "TLS"

    async def stop(self) -> None:
        """Drain, then close; safe to call once."""
        log.info(
            "draining",
            calls=self.service.supervisor.open_streams,
            seconds=self.settings.drain_seconds,
        )
        self._draining = True
        await self._set_health(False)
        await self.service.supervisor.drain(self.settings.drain_seconds)
        for task in self._tasks:
            task.cancel()
        await self._server.stop(grace=1.0)
        if self._health_port_server is not None:
            await self._health_port_server.stop(grace=None)
        await self.models.stop()
        await asyncio.get_running_loop().run_in_executor(None, self.tracing.stop)
        await asyncio.get_running_loop().run_in_executor(None, self.metrics.stop)
        log.info("stopped")

    async def abandon(self) -> None:
        """End all calls at once: inference does not recover."""
        self.service.supervisor.end_all(Unhealthy(self.models.current.engine.health.reason))
        await self._server.stop(grace=1.0)


def _engines(settings: ServerSettings, metrics: Metrics) -> Callable[[OnnxModel], Engine]:
    deliver = asyncio.get_running_loop().call_soon_threadsafe

    def make(model: OnnxModel) -> Engine:
        return Engine(
            model,
            deliver,
            max_batch=settings.max_batch,
            on_batch=metrics.record_batch,
            timeout_seconds=settings.inference_timeout,
        )

    return make
