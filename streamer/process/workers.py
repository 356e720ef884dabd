"""Several server processes on one port: the parent that keeps them, and their end of the line.

The kernel spreads connections over the sockets that share a port (SO_REUSEPORT). Each worker is
a server of its own, started as ``python -m streamer.serve worker NUMBER``. The parent writes to
its standard input: the settings, then, once all have loaded their student, that it may listen.
The worker answers on its standard output, says there every second that its event loop runs, and
drains when its input ends: its parent is gone.
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
"""Exit code of a server whose settings, model, certificates or address are no good."""
UNHEALTHY = 3
"""Exit code of a server whose student does not answer any more."""
LOADED, LISTEN, SERVING, ALIVE = b"loaded\n", b"listen\n", b"serving\n", b"alive\n"
BEAT_SECONDS = 1.0
"""Between two signs of life."""
LOAD_SECONDS = 120.0
"""A worker says nothing while it loads its student; one that takes longer is silent."""
FIRST_DELAY, LONGEST_DELAY = 0.5, 30.0
"""Seconds before a dead worker is replaced; doubled each time."""
HEALTHY_SECONDS = 60.0
"""A worker that lived as long is replaced after the first delay again."""
KILL_SECONDS = 10.0
"""After the drain; then a worker is killed."""


class Worker:
    """One worker and, when it has died, its successor.

    Attributes:
        loaded: it could listen.
        serving: it listens.
        served: the process that runs, or ran last, came to listen.
    """

    def __init__(self, number: int, settings: ServerSettings) -> None:
        self.number = number
        self.loaded = asyncio.Event()
        self.serving = asyncio.Event()
        self.served = False
        self._reload = False
        self._silence = settings.worker_heartbeat_timeout
        self._settings = settings.model_dump_json().encode() + b"\n"
        self._process: asyncio.subprocess.Process | None = None

    async def live(self, may_listen: asyncio.Event) -> int:
        """Start a process and wait for its end; its exit code. One that falls silent is killed.

        Raises:
            OSError: it cannot be started.
        """
        self.served = False
        self._process = process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "streamer.serve", ARGUMENT, str(self.number)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            process_group=0,  # Ctrl-C reaches the parent alone, which knows what to do
        )
        assert process.stdin is not None  # noqa: S101 - PIPE was asked for
        assert process.stdout is not None  # noqa: S101
        process.stdin.write(self._settings)
        limit = max(self._silence, LOAD_SECONDS) if self._silence else None
        while line := await self._heard(process, process.stdout, limit):
            limit = self._silence or None
            if line == LOADED:
                self.loaded.set()
                await may_listen.wait()
                process.stdin.write(LISTEN)
            elif line == SERVING:
                self.served = True
                self.serving.set()
                if self._reload:  # the file may have changed while this one loaded it
                    self.reload()
        return await process.wait()

    async def _heard(
        self, process: asyncio.subprocess.Process, lines: asyncio.StreamReader, limit: float | None
    ) -> bytes:
        """Its next line; empty if it is gone, for which it is killed after ``limit`` seconds."""
        try:
            async with asyncio.timeout(limit):
                return await lines.readline()
        except TimeoutError:
            log.error("worker_unresponsive", worker=self.number, seconds=limit)  # noqa: TRY400
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            return b""

    def reload(self) -> None:
        """Have it load the model file again, once it serves: before, the signal would end it."""
        self._reload = not self.served
        if self.served and self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGHUP)

    async def end(self, seconds: float) -> None:
        """Tell it to drain, and kill it if it has not ended after ``seconds``."""
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
    """Keeps the workers.

    Args:
        settings: of all of them.
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
        self._over = asyncio.Event()
        self._code = 0

    async def run(self) -> int:
        """Serve until SIGTERM or SIGINT; the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._over.set)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload)
        keeping = asyncio.create_task(self._keep())
        over = asyncio.create_task(self._over.wait())
        try:
            await asyncio.wait({keeping, over}, return_when=asyncio.FIRST_COMPLETED)
            if not self._code:
                log.info("stopping", workers=len(self._workers), seconds=self._drain_seconds)
        finally:
            over.cancel()
            keeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeping
            seconds = self._drain_seconds + KILL_SECONDS
            await asyncio.gather(*(worker.end(seconds) for worker in self._workers))
        if not self._code:
            log.info("stopped", workers=len(self._workers))
        return self._code

    def _reload(self) -> None:
        for worker in self._workers:
            worker.reload()

    async def _keep(self) -> None:
        async with asyncio.TaskGroup() as group:
            # The first alone: what none of them could serve is said once.
            for some in (self._workers[:1], self._workers[1:]):
                for worker in some:
                    group.create_task(self._tend(worker))
                for worker in some:
                    await worker.loaded.wait()
            # All listen at once: connections stay with whom they met.
            self._may_listen.set()
            for worker in self._workers:
                await worker.serving.wait()
            self._started = True
            log.info("serving", address=self._address, workers=len(self._workers))

    async def _tend(self, worker: Worker) -> None:
        delay, attempts = FIRST_DELAY, 0
        while True:
            born = time.monotonic()
            try:
                code = await worker.live(self._may_listen)
                reason = f"exit code {code}"
            except OSError as error:
                code, reason = None, str(error)
            if code == CANNOT_SERVE and not self._started:
                self._code = code
                self._over.set()
                return
            if time.monotonic() - born > HEALTHY_SECONDS:
                delay = FIRST_DELAY
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
            delay = min(2 * delay, LONGEST_DELAY)


def _settings_of(number: int, settings: ServerSettings, address: str) -> ServerSettings:
    own = {"listen": address}
    for name in ("metrics_listen", "health_listen"):
        host, _, port = getattr(settings, name).rpartition(":")
        own[name] = f"{host}:{int(port) and int(port) + number}" if host else ""
    return settings.model_copy(update=own)


def supervise(settings: ServerSettings) -> int:
    """Run ``settings.workers`` servers on one port until SIGTERM or SIGINT; the exit code.

    Raises:
        RuntimeError: the address cannot be bound.
    """
    held, address = reserve(settings.listen)

    async def run() -> int:
        return await Parent(settings, address).run()

    with held:
        return asyncio.run(run())


class Lifeline:
    """A worker's line to its parent; takes standard input and output for itself."""

    def __init__(self) -> None:
        self.number = int(sys.argv[2])
        self._input = os.dup(0)
        self._output = os.dup(1)
        os.set_blocking(self._output, False)  # a parent that does not read must not hold us up
        os.dup2(2, 1)  # what a library prints is no answer

    def settings(self) -> ServerSettings:
        """What the parent wants served; waits for it."""
        line = b""
        while not line.endswith(b"\n") and (more := os.read(self._input, 65536)):
            line += more
        return ServerSettings.model_validate_json(line)

    def say(self, what: bytes) -> None:
        """Tell the parent, if there still is one."""
        with contextlib.suppress(BrokenPipeError, BlockingIOError):
            os.write(self._output, what)

    async def beat(self) -> None:
        """Tell the parent every second that the event loop runs."""
        while True:
            self.say(ALIVE)
            await asyncio.sleep(BEAT_SECONDS)

    def watch(self, listen: Callable[[], None], gone: Callable[[], None]) -> None:
        """Call ``listen`` when the worker may, ``gone`` when there is no parent any more."""
        loop = asyncio.get_running_loop()

        def heard() -> None:
            if os.read(self._input, 64):
                listen()
            else:
                loop.remove_reader(self._input)
                gone()

        loop.add_reader(self._input, heard)
