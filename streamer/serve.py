"""Start the server: ``python -m streamer.serve --help``."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys

import streamer.operation.polling  # noqa: F401 - how gRPC polls is settled when it is loaded

# isort: split
import grpc
import structlog
import uvloop
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from pydantic import ValidationError
from pydantic_settings import CliApp

from streamer.admission import Policy
from streamer.engine import Engine
from streamer.errors import ModelFileError
from streamer.models import Models, ServedModel
from streamer.operation import workers
from streamer.operation.address import check_address
from streamer.operation.metrics import Metrics
from streamer.operation.selftest import self_test
from streamer.operation.tracing import tracing_to
from streamer.rpc import voicecohort_pb2 as pb
from streamer.rpc import voicecohort_pb2_grpc as pb_grpc
from streamer.security.identity import Identities
from streamer.security.tls import Certificates, TlsFiles
from streamer.security.tokens import Tokens
from streamer.service import ClassifierService
from streamer.settings import ServerSettings
from streamer.student import Student

log = structlog.get_logger()

SERVICE = pb.DESCRIPTOR.services_by_name["ClassifierService"].full_name
WIDEST_BYTES_PER_SECOND = 16_000 * 2 * 2
"""linear16 at 16 kHz on two channels."""
LEAST_MESSAGE_BYTES = 1 << 20
"""A config may bring a checkpoint along."""
SPARE_STREAMS = 100
"""What a connection may open beyond the calls of a server, to be refused at once, and for probes.
gRPC's own clients hold back what is beyond; others are cut off before they fill the memory."""
OPTIONS = (
    # A gateway whose host died never says goodbye: ask it once a minute.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # Gateways ping through long silences; gRPC would answer GOAWAY below five minutes.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
)


def configure_log(level: str, **fields: object) -> None:
    """JSON lines on standard error, each written at once: several processes may share it.

    Args:
        level: least that is logged.
        fields: of every line.
    """
    structlog.configure(
        processors=[
            lambda _logger, _method, event: {**fields, **event},
            # Whatever is said while a call's stream is served: its call_id and trace_id.
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def _certificates(settings: ServerSettings) -> Certificates | None:
    """Of TLS, None for plaintext; raises TlsError."""
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    files = TlsFiles(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
    return Certificates(files)


class Server:
    """A server; everything it needs is made here and taken down here.

    Args:
        settings: as given.
        shared: other processes listen on the same port. Alone, a second server on it must fail.

    Raises:
        ModelFileError: the model cannot be served.
        RuntimeError: the address cannot be bound, the certificates not served, or the tokens not
            used.
    """

    def __init__(self, settings: ServerSettings, *, shared: bool = False) -> None:
        self.settings = settings
        self.port = 0
        self._shared = shared
        if not shared:
            check_address(settings.listen)
        if settings.metrics_listen:
            check_address(settings.metrics_listen)
        self._certificates = _certificates(settings)
        tokens = Tokens(settings.tokens) if settings.tokens else None
        self.metrics = Metrics()
        if self._certificates is not None:
            self.metrics.certificates(self._certificates)
        self.tracing = tracing_to(
            settings.otlp_endpoint,
            insecure=settings.otlp_insecure,
            ratio=settings.otlp_sample_ratio,
            exported=self.metrics.exported,
        )
        self.student = Student(settings.model, provider=settings.provider, threads=settings.threads)
        self_test(self.student)
        self.engine = Engine(
            self.student,
            asyncio.get_running_loop().call_soon_threadsafe,
            max_batch=settings.max_batch,
            stepped=self.metrics.stepped,
        )
        self.metrics.model(self.student.metadata.model_id, self.student.providers[0])
        self.service = ClassifierService(
            Models(ServedModel.of(self.engine)),
            Policy(
                max_calls=settings.max_calls,
                max_calls_per_identity=settings.max_calls_per_identity,
                max_call_seconds=settings.max_call_seconds,
                max_lag_seconds=settings.max_lag_seconds,
                config_timeout=settings.config_timeout,
                max_chunk_seconds=settings.max_chunk_seconds,
                idle_timeout=settings.idle_timeout,
                update_seconds=settings.update_seconds,
                workers=settings.workers,
            ),
            metrics=self.metrics,
            tracing=self.tracing,
            identities=Identities(tokens),
        )
        self._health = health.aio.HealthServicer()
        # A longer message than any valid one is not even read into memory.
        longest = round(settings.max_chunk_seconds * WIDEST_BYTES_PER_SECOND) + 1024
        self._server = grpc.aio.server(
            options=(
                *OPTIONS,
                ("grpc.so_reuseport", int(shared)),
                ("grpc.max_receive_message_length", max(longest, LEAST_MESSAGE_BYTES)),
                ("grpc.max_concurrent_streams", settings.max_calls + SPARE_STREAMS),
            )
        )
        pb_grpc.add_ClassifierServiceServicer_to_server(self.service, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if tokens is None:  # gRPC's reflection lets in everyone
            names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, self._server)
        self._sweeper: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """HOST:PORT that is bound."""
        return f"{self.settings.listen.rpartition(':')[0]}:{self.port}"

    def bind(self) -> None:
        """Take the port; connections wait until :meth:`start`."""
        listen = self.settings.listen
        if self._certificates is None:
            self.port = self._server.add_insecure_port(listen)
        else:
            self.port = self._server.add_secure_port(listen, self._certificates.credentials())

    async def start(self) -> None:
        """Answer calls and, where asked to, scrapes."""
        self.bind()
        await self._server.start()
        metrics = self._serve_metrics()
        if self.settings.tokens is not None and self.settings.in_clear:
            log.warning("tokens_in_clear", address=self.address)
        self._sweeper = asyncio.create_task(self.service.watch())
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)
        log.info(
            "worker_serving" if self._shared else "serving",
            address=self.address,
            model=self.student.metadata.model_id,
            providers=self.student.providers,
            max_calls=self.settings.max_calls,
            metrics=metrics,
            security=self._security,
            tokens=self.settings.tokens is not None,
        )

    def _serve_metrics(self) -> str:
        """Address of the metrics, empty if they are not asked for."""
        host, _, port = self.settings.metrics_listen.rpartition(":")
        if not host:
            return ""
        bound = self.metrics.serve(host.strip("[]"), int(port))
        return f"http://{host}:{bound}/metrics"

    async def _set_health(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for name in ("", SERVICE):
            await self._health.set(name, status)

    @property
    def _security(self) -> str:
        if self.settings.tls_certificate is None:
            return "plaintext"
        return "mutual TLS" if self.settings.tls_client_ca else "TLS"

    async def stop(self) -> None:
        """Drain, then close; safe to call once."""
        log.info("draining", calls=self.service.running, seconds=self.settings.drain_seconds)
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        await self.service.drain(self.settings.drain_seconds)
        if self._sweeper is not None:
            self._sweeper.cancel()
        await self._server.stop(grace=1.0)
        await asyncio.get_running_loop().run_in_executor(None, self.engine.stop)
        await asyncio.get_running_loop().run_in_executor(None, self.tracing.stop)
        await asyncio.get_running_loop().run_in_executor(None, self.metrics.stop)
        log.info("stopped")


async def serve(settings: ServerSettings, parent: workers.Lifeline | None = None) -> None:
    """Serve until SIGTERM or SIGINT, or until the parent is gone."""
    stop, listen = asyncio.Event(), asyncio.Event()

    def end() -> None:
        stop.set()
        listen.set()

    server = Server(settings, shared=parent is not None)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, end)
    if parent is not None:
        parent.watch(listen.set, end)
        parent.say(workers.LOADED)
        await listen.wait()
    if not stop.is_set():
        await server.start()
        if parent is not None:
            parent.say(workers.SERVING)
    await stop.wait()
    await server.stop()


async def check(settings: ServerSettings) -> None:
    """Do all that a start needs."""
    server = Server(settings)
    server.bind()
    await server.stop()
    log.info("checked", model=server.student.metadata.model_id)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def main() -> int:
    """Command line; 2 for settings or a model that cannot be served."""
    parent = workers.Lifeline() if sys.argv[1:2] == [workers.ARGUMENT] else None
    try:
        settings = parent.settings() if parent else CliApp.run(ServerSettings)
    except ValidationError as error:
        for problem in error.errors():
            name = ".".join(str(part) for part in problem["loc"])
            got = f", got {problem['input']!r}" if name else ""
            print(f"setting {name or 'error'}: {problem['msg']}{got}", file=sys.stderr)  # noqa: T201
        return 2
    configure_log(settings.log_level, **({"worker": parent.number} if parent else {}))
    try:
        if settings.check:
            uvloop.run(check(settings))
        elif parent is None and settings.workers > 1:
            return workers.supervise(settings)
        else:
            uvloop.run(serve(settings, parent))
    except (ModelFileError, RuntimeError) as error:
        print(_one_line(error), file=sys.stderr)  # noqa: T201 - one line, before any log is read
        return workers.CANNOT_SERVE
    return 0


if __name__ == "__main__":
    sys.exit(main())
