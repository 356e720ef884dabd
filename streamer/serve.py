"""Start the server: ``python -m streamer.serve --help``."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import streamer.process.environment  # noqa: F401 - before gRPC is imported
from streamer.process.extras import require

SERVER_MODULES = (
    "structlog",
    "pydantic_settings",
    "onnxruntime",
    "webrtcvad",
    "prometheus_client",
    "cryptography",
    "grpc_health",
    "grpc_reflection",
)
require("voicecohort-serve", "server", *SERVER_MODULES)

import structlog
from pydantic import ValidationError
from pydantic_settings import CliApp

from streamer.errors import ModelFileError
from streamer.observability.logging import CoreLog, captured, configure_log
from streamer.process import workers
from streamer.process.environment import event_loop_run, fix_heap_threshold
from streamer.server import Server
from streamer.settings import ServerSettings, unknown_variables

log = structlog.get_logger()


async def serve(
    settings: ServerSettings,
    parent: workers.ParentConnection | None = None,
    core: CoreLog | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, until the parent is gone, or until inference has failed.

    Args:
        settings: all settings.
        parent: connection to the parent, for a worker.
        core: gRPC's log, whose failed handshakes are counted.
    """
    listen, loop = asyncio.Event(), asyncio.get_running_loop()
    # Installed before the model is read, so that no change of the file is missed.
    reload = asyncio.Event()
    loop.add_signal_handler(signal.SIGHUP, reload.set)
    server = Server(settings, shared=parent is not None, reload=reload)
    if core is not None:
        core.start(server.metrics.record_failed_handshakes)

    def end() -> None:
        server.over.set()
        listen.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    heartbeats = None
    if parent is not None:
        parent.watch(listen.set, end)
        parent.notify(workers.LOADED)
        heartbeats = asyncio.create_task(parent.send_heartbeats())
        await listen.wait()
    if not server.over.is_set():
        await server.start()
        if parent is not None:
            parent.notify(workers.SERVING)
    await server.over.wait()
    if server.gave_up:
        await server.abandon()
        os._exit(workers.UNHEALTHY)  # a normal exit would wait for the blocked thread
    await server.stop()
    if heartbeats is not None:
        heartbeats.cancel()


async def check(settings: ServerSettings) -> None:
    """Do all steps of a start, then stop."""
    server = Server(settings)
    server.bind()
    await server.stop()
    log.info("checked", model=server.models.current.metadata.model_id)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def main() -> int:
    """Run the command line; return 2 for settings or a model that cannot be served."""
    fix_heap_threshold()
    parent = workers.ParentConnection() if sys.argv[1:2] == [workers.ARGUMENT] else None
    if parent is None and (unknown := unknown_variables(os.environ)):
        print(*unknown, sep="\n", file=sys.stderr)  # noqa: T201
        return 2
    try:
        settings = parent.settings() if parent else CliApp.run(ServerSettings)
    except ValidationError as error:
        for problem in error.errors():
            name = ".".join(str(part) for part in problem["loc"])
            got = f", got {problem['input']!r}" if name else ""
            print(f"setting {name or 'error'}: {problem['msg']}{got}", file=sys.stderr)  # noqa: T201
        return 2
    log_fields = {"worker": parent.number} if parent else {}
    configure_log(settings.log_level, **log_fields)
    try:
        if settings.check:
            event_loop_run(check(settings))
        elif parent is None and settings.workers > 1:
            return workers.supervise(settings)
        elif settings.tls_certificate is None or not settings.metrics_listen:
            event_loop_run(serve(settings, parent))  # no failed handshakes to count
        else:
            with captured() as core:
                configure_log(settings.log_level, **log_fields)  # bypasses the pipe
                event_loop_run(serve(settings, parent, core))
    except (ModelFileError, RuntimeError) as error:
        print(_one_line(error), file=sys.stderr)  # noqa: T201 - one line for the operator
        return workers.CANNOT_SERVE
    return 0


if __name__ == "__main__":
    sys.exit(main())
