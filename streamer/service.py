"""gRPC on one side, calls on the other: admission, status codes, endings. No audio maths."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import structlog
from google.protobuf.message import DecodeError

from streamer import messages
from streamer.admission import Admission, Policy
from streamer.call import Call
from streamer.endings import Context, abort, log_end, log_error
from streamer.errors import (
    CallError,
    Draining,
    FailedPrecondition,
    IdleTimeout,
    InvalidArgument,
)
from streamer.models import Models
from streamer.operation.load import CpuShare, Load
from streamer.operation.metrics import Metrics
from streamer.operation.tracing import CallTrace, Tracing
from streamer.rpc import voicecohort_pb2 as pb
from streamer.rpc import voicecohort_pb2_grpc as pb_grpc

log = structlog.get_logger()

WATCH_SECONDS = 0.1
"""Between two looks at how far behind the server is."""
ABORT_SECONDS = 5.0
"""How long a status may wait for a gateway that does not read."""


class ClassifierService(pb_grpc.ClassifierServiceServicer):
    """The servicer.

    Args:
        models: which student calls take.
        policy: limits.
        clock: seconds, monotonic; injected so that tests need not wait.
        metrics: counts calls; one of its own if none is given.
        tracing: traces calls; none are traced if it is not given.
    """

    def __init__(
        self,
        models: Models,
        policy: Policy,
        clock: Callable[[], float] = time.monotonic,
        metrics: Metrics | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self._tracing = tracing or Tracing()
        self._metrics = metrics or Metrics()
        self._models = models
        self._policy = policy
        self._clock = clock
        self._load = Load()
        self._admission = Admission(policy, self._load)
        self._calls: set[Call] = set()
        self._open_streams = 0
        self._empty = asyncio.Event()
        self._empty.set()
        self.draining = asyncio.Event()

    @property
    def running(self) -> int:
        """Streams that are open."""
        return self._open_streams

    async def StreamClassify(  # type: ignore[override]  # noqa: N802 - the name is the protocol's
        self,
        request_iterator: AsyncIterator[pb.StreamClassifyRequest],  # noqa: ARG002 - read() instead
        context: Context,
    ) -> None:
        """One call, from config to status."""
        trace = self._tracing.call(context.invocation_metadata() or ())
        # A stream is served by a task of its own: these fields end with it.
        structlog.contextvars.bind_contextvars(**trace.log_fields)
        self._open_streams += 1
        self._metrics.opened()
        self._empty.clear()
        call: Call | None = None
        error: CallError | None = None
        ending = "CANCELLED"
        try:
            try:
                call = await self._admit(context, trace)
                await self._greet(call, context)
                error = await self._converse(call, context)
            except CallError as raised:
                error = raised
            ending = error.status if error else "OK"
            if error is not None:
                log_error(call, error)
                # A gateway that does not read would leave even the status waiting.
                async with asyncio.timeout(ABORT_SECONDS):
                    await abort(context, error)
        except TimeoutError:
            log.warning("status_unread", status=ending)
        finally:
            self._open_streams -= 1
            self._metrics.closed()
            if not self._open_streams:
                self._empty.set()
            if call is None:
                self._metrics.refused(ending)
            else:
                self._calls.discard(call)
                call.close()
                self._metrics.heard(call.session, call.counted)
                self._metrics.ended(ending)
                log_end(call, ending)
            trace.ended(ending, _reason(error), call.session if call else None)

    async def _admit(self, context: Context, trace: CallTrace) -> Call:
        if self.draining.is_set():
            raise Draining
        if (refusal := self._admission.refusal(self._open_streams)) is not None:
            raise refusal
        first = await self._first_message(context)
        if messages.fit_for_log(first.config.call_id):
            structlog.contextvars.bind_contextvars(call_id=first.config.call_id)
        config = messages.call_config(
            first.config,
            update_seconds=self._policy.update_seconds,
            max_chunk_seconds=self._policy.max_chunk_seconds,
        )
        structlog.contextvars.bind_contextvars(call_id=config.call_id)
        model = self._models.current
        trace.accepted(
            config,
            config.encoding.name.lower(),
            model.metadata.model_id,
            resumed=bool(first.config.resume_from),
        )
        return Call(config, model, self._clock, self._metrics, self._load, trace)

    async def _greet(self, call: Call, context: Context) -> None:
        self._calls.add(call)
        log.info(
            "call_started",
            call_id=call.config.call_id,
            encoding=call.config.encoding.name.lower(),
            sample_rate=call.config.sample_rate,
            channels=len(call.config.ignored),
            model=call.model.metadata.model_id,
        )
        await context.write(
            messages.started(
                call.config, call.model.metadata, idle_timeout=self._policy.idle_timeout
            )
        )

    async def _first_message(self, context: Context) -> pb.StreamClassifyRequest:
        """The config; a stream that never sends it ends with the idle limit or the server."""
        reading = asyncio.create_task(_read(context))
        draining = asyncio.create_task(self.draining.wait())
        try:
            await asyncio.wait(
                (reading, draining),
                timeout=self._policy.idle_timeout,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if not reading.done():
                raise Draining if draining.done() else IdleTimeout(self._policy.idle_timeout)
            first = reading.result()
        finally:
            reading.cancel()
            draining.cancel()
        if first is None:
            raise FailedPrecondition("config", "the stream ended before its first message")
        if first.WhichOneof("message") != "config":
            raise FailedPrecondition("config", "the first message of a stream must be the config")
        return first

    async def _converse(self, call: Call, context: Context) -> CallError | None:
        """Run an open call to its end; returns the reason if it is not the gateway's own wish."""
        reader = asyncio.create_task(call.read_all(lambda: _read(context)))
        writer = asyncio.create_task(call.write_all(context.write))
        try:
            over: set[asyncio.Future[Any]] = {reader, writer, call.stopped}
            await asyncio.wait(over, return_when=asyncio.FIRST_COMPLETED)
            error = _why_over(call, reader, writer)
            reader.cancel()
            if error is None or isinstance(error, IdleTimeout | Draining):
                try:
                    await call.finish()
                except CallError as raised:
                    error = raised
            call.close()
            call.no_more_responses()
            # A gateway that does not read cannot hold the call for ever.
            await asyncio.wait({writer}, timeout=self._policy.idle_timeout)
            if not writer.done():
                error = error or IdleTimeout(self._policy.idle_timeout)
            return error
        finally:
            reader.cancel()
            writer.cancel()
            await asyncio.gather(reader, writer, return_exceptions=True)

    async def drain(self, seconds: float) -> None:
        """Refuse new calls, let running ones go on for ``seconds``, then finish them."""
        self.draining.set()
        self._metrics.draining()
        try:
            await asyncio.wait_for(self._empty.wait(), seconds)
        except TimeoutError:
            log.warning("drain_deadline", calls=self._open_streams)
            for call in list(self._calls):
                call.stop(Draining())
            await asyncio.wait({asyncio.create_task(self._empty.wait())}, timeout=5.0)

    def measured(self, late: float, busy: float, passed: float) -> None:
        """Take note of how far the server is behind and how busy.

        Args:
            late: seconds by which the event loop was late just now.
            busy: share of the CPU taken since the last time.
            passed: seconds since the last time.
        """
        self._load.measured(max(late, self._models.current.engine.waited), busy, passed)
        self._metrics.load(self._load.delay, self._load.demand)

    async def watch(self) -> None:
        """Measure ten times a second how far behind the server is, sweep once a second."""
        loop = asyncio.get_running_loop()
        share = CpuShare(self._policy.workers)
        while True:
            for _ in range(10):
                before = loop.time()
                await asyncio.sleep(WATCH_SECONDS)
                passed = loop.time() - before
                self.measured(passed - WATCH_SECONDS, share.since_last(), passed)
            self.sweep()

    def sweep(self) -> None:
        """Count what is heard, end calls that are silent on the wire; call it once a second."""
        oldest = self._clock() - self._policy.idle_timeout
        for call in self._calls:
            self._metrics.heard(call.session, call.counted)
            if call.last_message < oldest:
                call.stop(IdleTimeout(self._policy.idle_timeout))


def _reason(error: CallError | None) -> str:
    return str(getattr(error, "reason", "")) if error else ""


async def _read(context: Context) -> pb.StreamClassifyRequest | None:
    """Next request, or None at the half-close."""
    try:
        request: Any = await context.read()
    except DecodeError as error:
        raise InvalidArgument("message", "undecodable", str(error)) from error
    return request if isinstance(request, pb.StreamClassifyRequest) else None


def _why_over(
    call: Call, reader: asyncio.Task[None], writer: asyncio.Task[None]
) -> CallError | None:
    """Why the conversation is over; None for a half-close or a `finish`.

    Raises:
        Exception: the stream itself broke.
    """
    if writer.done():
        writer.result()
    if call.stopped.done():
        return call.stopped.result()
    try:
        reader.result()
    except CallError as error:
        return error
    return None
