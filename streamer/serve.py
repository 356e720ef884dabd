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
from streamer.rpc import voicecohort_pb2 as pb
from streamer.rpc import voicecohort_pb2_grpc as pb_grpc
from streamer.security.tls import Certificates, TlsFiles
from streamer.service import ClassifierService
from streamer.settings import ServerSettings
from streamer.student import Student

log = structlog.get_logger()

SERVICE = pb.DESCRIPTOR.services_by_name["ClassifierService"].full_name
WIDEST_BYTES_PER_SECOND = 16_000 * 2 * 2
"""linear16 at 16 kHz on two channels."""
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


def _credentials(settings: ServerSettings) -> grpc.ServerCredentials | None:
    """Of TLS, None for plaintext; raises TlsError."""
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    files = TlsFiles(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
    return Certificates(files).credentials()


def _health_alone(servicer: health.aio.HealthServicer) -> grpc.aio.Server:
    """A server of health checks and nothing else."""
    server = grpc.aio.server(options=(*OPTIONS, ("grpc.so_reuseport", 0)))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    return server


class Server:
    """A server; everything it needs is made here and taken down here.

    Args:
        settings: as given.
        shared: other processes listen on the same port. Alone, a second server on it must fail.

    Raises:
        ModelFileError: the model cannot be served.
        RuntimeError: the address cannot be bound, or the certificates not served.
    """

    def __init__(self, settings: ServerSettings, *, shared: bool = False) -> None:
        self.settings = settings
        self.port = 0
        self._shared = shared
        if not shared:
            check_address(settings.listen)
        for address in (settings.metrics_listen, settings.health_listen):
            if address:
                check_address(address)
        self._credentials = _credentials(settings)
        self.metrics = Metrics()
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
                max_chunk_seconds=settings.max_chunk_seconds,
                idle_timeout=settings.idle_timeout,
                update_seconds=settings.update_seconds,
                workers=settings.workers,
            ),
            metrics=self.metrics,
        )
        self._health = health.aio.HealthServicer()
        # A longer message than any valid chunk is not even read into memory.
        longest = round(settings.max_chunk_seconds * WIDEST_BYTES_PER_SECOND) + 1024
        self._server = grpc.aio.server(
            options=(
                *OPTIONS,
                ("grpc.so_reuseport", int(shared)),
                ("grpc.max_receive_message_length", longest),
            )
        )
        pb_grpc.add_ClassifierServiceServicer_to_server(self.service, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)
        self._probed = _health_alone(self._health) if settings.health_listen else None
        self._sweeper: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """HOST:PORT that is bound."""
        return f"{self.settings.listen.rpartition(':')[0]}:{self.port}"

    def bind(self) -> None:
        """Take the port; connections wait until :meth:`start`."""
        listen = self.settings.listen
        if self._credentials is None:
            self.port = self._server.add_insecure_port(listen)
        else:
            self.port = self._server.add_secure_port(listen, self._credentials)

    async def start(self) -> None:
        """Answer calls and, where asked to, scrapes."""
        self.bind()
        await self._server.start()
        metrics = self._serve_metrics()
        health_address = await self._serve_health()
        self._sweeper = asyncio.create_task(self.service.watch())
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)
        log.info(
            "worker_serving" if self._shared else "serving",
            address=self.address,
            model=self.student.metadata.model_id,
            providers=self.student.providers,
            max_calls=self.settings.max_calls,
            metrics=metrics,
            health=health_address,
            security=self._security,
        )

    def _serve_metrics(self) -> str:
        """Address of the metrics, empty if they are not asked for."""
        host, _, port = self.settings.metrics_listen.rpartition(":")
        if not host:
            return ""
        bound = self.metrics.serve(host.strip("[]"), int(port))
        return f"http://{host}:{bound}/metrics"

    async def _serve_health(self) -> str:
        """Address of the health checks, empty if they are not asked for on a port of their own."""
        if self._probed is None:
            return ""
        port = self._probed.add_insecure_port(self.settings.health_listen)
        await self._probed.start()
        return f"{self.settings.health_listen.rpartition(':')[0]}:{port}"

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
        if self._probed is not None:
            await self._probed.stop(grace=None)
        await asyncio.get_running_loop().run_in_executor(None, self.engine.stop)
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
