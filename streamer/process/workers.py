"""Several server processes on one port: the parent process, its workers, and their protocol.

The kernel spreads connections over the sockets that share a port (SO_REUSEPORT). Each worker is a
server process, started as ``python -m streamer.serve worker NUMBER``. The parent writes the
settings to its standard input and, once all workers have loaded the model, ``listen``. The worker
writes ``loaded`` and ``serving`` to its standard output, and ``alive`` every second that its event
loop runs. It drains when its standard input ends, because then the parent is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable

import structlog

from streamer.process.address import reserve
from streamer.settings import ServerSettings

log = structlog.get_logger()

ARGUMENT = "worker"
CANNOT_SERVE = 2
"""Exit code of a server whose settings, model, certificates or address cannot be used."""
UNHEALTHY = 3
"""Exit code of a server whose inference no longer works."""
LOADED, LISTEN, SERVING, ALIVE = b"loaded\n", b"listen\n", b"serving\n", b"alive\n"
HEARTBEAT_SECONDS = 1.0
"""Between two heartbeats."""
LOAD_SECONDS = 120.0
"""Limit for loading the model, during which a worker sends no heartbeat."""
MIN_RESTART_DELAY_SECONDS, MAX_RESTART_DELAY_SECONDS = 0.5, 30.0
"""Delay before a worker is replaced; doubled each time."""
HEALTHY_SECONDS = 60.0
"""Lifetime of a worker after which the delay starts from its minimum again."""
KILL_SECONDS = 10.0
"""After the drain; then a worker is killed."""


class Worker:
    """One worker process and its successors.

    Attributes:
        loaded: set once a process has loaded the model.
        serving: set once a process listens.
        served: whether the current or last process reached the listening state.
    """

    def __init__(self, number: int, settings: ServerSettings) -> None:
        self.number = number
        self.loaded = asyncio.Event()
        self.serving = asyncio.Event()
        self.served = False
        self._reload = False
        self._heartbeat_timeout = settings.worker_heartbeat_timeout
        self._settings = settings.model_dump_json().encode() + b"\n"
        self._process: asyncio.subprocess.Process | None = None

    async def run(self, may_listen: asyncio.Event) -> int:
        """Start a process, wait for its end and return its exit code; kill it without heartbeats.

        Raises:
            OSError: the process cannot be started.
        """
        self.served = False
        self._process = process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "streamer.serve", ARGUMENT, str(self.number)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            process_group=0,  # Ctrl-C reaches only the parent, which drains the workers
        )
        assert process.stdin is not None  # noqa: S101 - opened with PIPE
        assert process.stdout is not None  # noqa: S101
        process.stdin.write(self._settings)
        limit = max(self._heartbeat_timeout, LOAD_SECONDS) if self._heartbeat_timeout else None
        while line := await self._read_line(process, process.stdout, limit):
            limit = self._heartbeat_timeout or None
            if line == LOADED:
                self.loaded.set()
                await may_listen.wait()
                process.stdin.write(LISTEN)
            elif line == SERVING:
                self.served = True
                self.serving.set()
                if self._reload:  # the file may have changed during the load
                    self.reload()
        return await process.wait()

    async def _read_line(
        self, process: asyncio.subprocess.Process, lines: asyncio.StreamReader, limit: float | None
    ) -> bytes:
        """Return the next line, empty at the end; kill the process after ``limit`` seconds."""
        try:
            async with asyncio.timeout(limit):
                return await lines.readline()
        except TimeoutError:
            log.error("worker_unresponsive", worker=self.number, seconds=limit)  # noqa: TRY400
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            return b""

    def reload(self) -> None:
        """Request a reload of the model file once the worker serves; before, it would end."""
        self._reload = not self.served
        if self.served and self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGHUP)

    async def stop(self, seconds: float) -> None:
        """Request a drain, and kill the process if it has not ended after ``seconds``."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            async with asyncio.timeout(seconds):
                await self._process.wait()
        except TimeoutError:
            log.warning("worker_killed", worker=self.number)
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()


class Parent:
    """Supervisor of all workers.

    Args:
        settings: shared by all workers.
        address: HOST:PORT, reserved.
    """

    def __init__(self, settings: ServerSettings, address: str) -> None:
        self._address = address
        self._drain_seconds = settings.drain_seconds
        self._workers = [
            Worker(number, _settings_of(number, settings, address))
            for number in range(settings.workers)
        ]
        self._may_listen = asyncio.Event()
        self._started = False
        self._stopping = asyncio.Event()
        self._code = 0

    async def run(self) -> int:
        """Serve until SIGTERM or SIGINT; return the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._stopping.set)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload)
        supervising = asyncio.create_task(self._supervise())
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({supervising, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not self._code:
                log.info("stopping", workers=len(self._workers), seconds=self._drain_seconds)
        finally:
            stopping.cancel()
            supervising.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await supervising
            seconds = self._drain_seconds + KILL_SECONDS
            await asyncio.gather(*(worker.stop(seconds) for worker in self._workers))
        if not self._code:
            log.info("stopped", workers=len(self._workers))
        return self._code

    def _reload(self) -> None:
        for worker in self._workers:
            worker.reload()

    async def _supervise(self) -> None:
        async with asyncio.TaskGroup() as group:
            # The first worker alone: settings that no worker can serve are reported once.
            for group_of_workers in (self._workers[:1], self._workers[1:]):
                for worker in group_of_workers:
                    group.create_task(self._keep_running(worker))
                for worker in group_of_workers:
                    await worker.loaded.wait()
            # All listen at once, because a connection stays with the worker that accepted it.
            self._may_listen.set()
            for worker in self._workers:
                await worker.serving.wait()
            self._started = True
            log.info("serving", address=self._address, workers=len(self._workers))

    async def _keep_running(self, worker: Worker) -> None:
        delay, attempts = MIN_RESTART_DELAY_SECONDS, 0
        while True:
            started_at = time.monotonic()
            try:
                code = await worker.run(self._may_listen)
                reason = f"exit code {code}"
            except OSError as error:
                code, reason = None, str(error)
            if code == CANNOT_SERVE and not self._started:
                self._code = code
                self._stopping.set()
                return
            if time.monotonic() - started_at > HEALTHY_SECONDS:
                delay = MIN_RESTART_DELAY_SECONDS
            if worker.served:
                attempts = 0
                log.error("worker_died", worker=worker.number, exit_code=code, retry_seconds=delay)
            else:
                attempts += 1
                log.error(
                    "worker_not_started",
                    worker=worker.number,
                    reason=reason,
                    attempts=attempts,
                    retry_seconds=delay,
                )
            await asyncio.sleep(delay)
            delay = min(2 * delay, MAX_RESTART_DELAY_SECONDS)


def _settings_of(number: int, settings: ServerSettings, address: str) -> ServerSettings:
    own = {"listen": address}
    for name in ("metrics_listen", "health_listen"):
        host, _, port = getattr(settings, name).rpartition(":")
        own[name] = f"{host}:{int(port) and int(port) + number}" if host else ""
    return settings.model_copy(update=own)


def supervise(settings: ServerSettings) -> int:
    """Run ``settings.workers`` servers on one port until SIGTERM or SIGINT; return the exit code.

    Raises:
        RuntimeError: the address cannot be bound.
    """
    reserved, address = reserve(settings.listen)

    async def run() -> int:
        return await Parent(settings, address).run()

    with reserved:
        return asyncio.run(run())


class ParentConnection:
    """A worker's connection to its parent over standard input and output."""

    def __init__(self) -> None:
        self.number = int(sys.argv[2])
        self._input = os.dup(0)
        self._output = os.dup(1)
        os.set_blocking(self._output, False)  # a parent that does not read must not block
        os.dup2(2, 1)  # keeps prints of libraries out of the protocol

    def settings(self) -> ServerSettings:
        """Read the settings that the parent sends; blocks until they arrive."""
        line = b""
        while not line.endswith(b"\n") and (more := os.read(self._input, 65536)):
            line += more
        return ServerSettings.model_validate_json(line)

    def notify(self, line: bytes) -> None:
        """Send a line to the parent, if it still exists."""
        with contextlib.suppress(BrokenPipeError, BlockingIOError):
            os.write(self._output, line)

    async def send_heartbeats(self) -> None:
        """Notify the parent every second that the event loop runs."""
        while True:
            self.notify(ALIVE)
            await asyncio.sleep(HEARTBEAT_SECONDS)

    def watch(self, on_listen: Callable[[], None], on_parent_gone: Callable[[], None]) -> None:
        """Call ``on_listen`` when the worker may listen, ``on_parent_gone`` when input ends."""
        loop = asyncio.get_running_loop()

        def read_input() -> None:
            if os.read(self._input, 64):
                on_listen()
            else:
                loop.remove_reader(self._input)
                on_parent_gone()

        loop.add_reader(self._input, read_input)
