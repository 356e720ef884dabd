"""gRPC on one side, calls on the other: admission, status codes, endings. No audio maths."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import structlog

from streamer.call.admission import Admission, Policy
from streamer.call.call import Call
from streamer.call.overload import CpuShare, Load
from streamer.call.setup import CallFactory, PendingStreams
from streamer.call.teardown import conclude, enforce, log_end, log_error, unexpected
from streamer.checkpoint.resumption import Resumption
from streamer.errors import CallError, Draining, Unhealthy
from streamer.inference.registry import ModelRegistry
from streamer.observability.metrics import Metrics
from streamer.observability.tracing import Tracing
from streamer.rpc import voicecohort_pb2 as pb
from streamer.rpc import voicecohort_pb2_grpc as pb_grpc
from streamer.security.identity import Caller, Identities, StreamContext
from streamer.transport.stream import ABORT_SECONDS, Context, GrpcStream, Stream

log = structlog.get_logger()

WATCH_SECONDS = 0.1
"""Between two looks at how far behind the server is."""
MANY = 5
"""One in so many of all calls on one trunk, and blocks of others are not worth waiting for."""
GATHER_SECONDS = 0.004
"""That a trunk's message waits for more responses where the server is busy: half as many go out."""


class ClassifierService(pb_grpc.ClassifierServiceServicer):
    """The servicer.

    Args:
        models: which student calls take.
        policy: limits.
        clock: seconds, monotonic; injected so that tests need not wait.
        metrics: counts calls; one of its own if none is given.
        identities: who may call; everyone if none is given.
        resumption: of calls that ask for checkpoints; such calls are refused if none is given.
        tracing: traces calls; none are traced if it is not given.
    """

    def __init__(
        self,
        models: ModelRegistry,
        policy: Policy,
        clock: Callable[[], float] = time.monotonic,
        metrics: Metrics | None = None,
        identities: Identities | None = None,
        resumption: Resumption | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self._tracing = tracing or Tracing()
        self._metrics = metrics or Metrics()
        self._models = models
        self._policy = policy
        self._clock = clock
        self._load = Load()
        self._identities = identities or Identities()
        self._resumption = resumption
        self._admission = Admission(policy, self._load)
        self._pending = PendingStreams(policy.config_timeout, clock)
        self._factory = CallFactory(
            models, policy, clock, self._metrics, self._load, resumption=resumption
        )
        self._calls: set[Call] = set()
        self._status_deadlines: dict[asyncio.Timeout, float] = {}
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
        await self.serve(GrpcStream(context))

    async def serve(self, stream: Stream) -> None:
        """One call, from config to end, in a task of its own."""
        trace = self._tracing.call(stream.invocation_metadata() or ())
        # A stream is served by a task of its own: these fields end with it.
        structlog.contextvars.bind_contextvars(**trace.log_fields)
        self._open_streams += 1
        self._metrics.stream_opened()
        self._empty.clear()
        caller: Caller | None = None
        call: Call | None = None
        error: CallError | None = None
        ending, reason = "CANCELLED", "cancelled"
        try:
            try:
                self._require_healthy()
                caller = self._identities.caller(stream)
                with self._admission.acquire(caller):
                    wanted = await self._pending.config(stream.read)
                    call = self._factory.begin(wanted, caller, trace)
                    self._calls.add(call)
                    self._factory.greet(call)
                    error = await self._run_call(call, stream)
            except CallError as raised:
                error = raised
            except grpc.aio.BaseError:
                raise  # the stream itself broke: there is nobody to tell
            except Exception as raised:  # noqa: BLE001 - becomes the call's status
                error = unexpected(call, raised)
            ending, reason = (error.status, error.reason) if error else ("OK", "finished")
            if error is not None:
                identity = caller.identity if caller else ""
                log_error(call, error, identity=identity, peer=stream.peer())
                await self._send_status(stream, error)
        finally:
            self._cleanup(call, ending, reason)
            trace.ended(ending, reason, call.session if call else None)
            if error is not None:
                # Its frames hold the call and it: free now, not when Python looks for cycles.
                error.__traceback__ = None

    async def _send_status(self, stream: Stream, error: CallError) -> None:
        """End the stream with a status; one that does not read would leave even that waiting."""
        limit = asyncio.timeout(None)
        self._status_deadlines[limit] = self._clock() + ABORT_SECONDS
        try:
            async with limit:
                await stream.end(error)
        except TimeoutError:
            log.warning("status_unread", status=error.status)
        finally:
            del self._status_deadlines[limit]
            del limit  # it knows the task, whose end is an exception that knows this frame

    def _cleanup(self, call: Call | None, ending: str, reason: str) -> None:
        """A stream is over: give back all that it had."""
        self._open_streams -= 1
        self._metrics.stream_closed()
        if not self._open_streams:
            self._empty.set()
        if call is None:
            self._metrics.record_refusal(ending, reason)
            return
        self._calls.discard(call)
        call.close()
        self._models.release(call.model)
        if self._resumption is not None:
            self._resumption.ended(call, well=ending == "OK")
        self._metrics.add_totals([(call.session, call.counted)])
        self._metrics.record_call_end(ending, reason)
        log_end(call, ending, reason)

    def trunk_message_received(self, calls: int) -> None:
        """So many calls have sent what they have until the next message of their trunk.

        If they are many of all, their blocks wait for no others, while there is time to spare.
        """
        if MANY * calls > self._open_streams and not self._load.busy:
            self._models.flush()

    def response_delay(self) -> float:
        """Seconds that a trunk's message should wait for more responses."""
        return GATHER_SECONDS if self._load.busy else 0.0

    def authorize(self, opener: StreamContext) -> str:
        """Identity of who opened a stream; raises CallError if it would get no call."""
        self._require_healthy()
        return self._identities.caller(opener).identity

    def _require_healthy(self) -> None:
        if self.draining.is_set():
            raise Draining
        health = self._models.current.engine.health
        if not health.healthy:
            raise Unhealthy(health.reason)

    async def _run_call(self, call: Call, stream: Stream) -> CallError | None:
        """Run an open call to its end; returns the reason if it is not the gateway's own wish."""
        reader = asyncio.create_task(call.read_all(stream))
        writer = asyncio.create_task(call.responses.write_all(stream))
        try:
            over: set[asyncio.Future[Any]] = {reader, writer, call.stopped}
            await asyncio.wait(over, return_when=asyncio.FIRST_COMPLETED)
            error = _end_reason(call, reader, writer)
            reader.cancel()
            return await conclude(call, writer, error)
        finally:
            reader.cancel()
            writer.cancel()
            await asyncio.gather(reader, writer, return_exceptions=True)

    async def drain(self, seconds: float) -> None:
        """Refuse new calls, let running ones go on for ``seconds``, then finish them.

        Calls with checkpoints are sent to other servers, one after the other in the first half of
        that: all at once would be more than those can take.
        """
        self.draining.set()
        self._metrics.set_draining()
        self._pending.stop(Draining())
        moving = asyncio.create_task(self._move(seconds / 2))
        try:
            await asyncio.wait_for(self._empty.wait(), seconds)
        except TimeoutError:
            log.warning("drain_deadline", calls=self._open_streams)
            for call in list(self._calls):
                call.stop(Draining())
            await asyncio.wait({asyncio.create_task(self._empty.wait())}, timeout=5.0)
        finally:
            moving.cancel()

    async def _move(self, seconds: float) -> None:
        """Have every call that can go on elsewhere do so, spread over ``seconds``."""
        calls = [call for call in self._calls if call.checkpoints is not None]
        for call in calls:
            call.migrate()
            await asyncio.sleep(seconds / len(calls))

    def record_load(self, late: float, busy: float, passed: float) -> None:
        """Take note of how far the server is behind and how busy.

        Args:
            late: seconds by which the event loop was late just now.
            busy: share of the CPU taken since the last time.
            passed: seconds since the last time.
        """
        now = self._clock()
        active = sum(call.active(now) for call in self._calls)
        self._load.record(max(late, self._models.queue_seconds), busy, passed, active)
        self._metrics.set_load(self._load.delay, self._load.demand)

    async def watch(self) -> None:
        """Measure ten times a second how far behind the server is, sweep once a second."""
        loop = asyncio.get_running_loop()
        share = CpuShare(self._policy.workers)
        while True:
            for _ in range(10):
                before = loop.time()
                await asyncio.sleep(WATCH_SECONDS)
                passed = loop.time() - before
                self.record_load(passed - WATCH_SECONDS, share.since_last(), passed)
            try:
                self.sweep()
            except Exception:  # limits must hold tomorrow as well
                log.exception("sweep_failed")

    def end_all(self, reason: CallError) -> None:
        """End every call at once, without its final predictions."""
        for call in self._calls:
            call.stop(reason)

    def sweep(self) -> None:
        """Count what is heard, end what is beyond a limit of time; call it once a second."""
        self._identities.refresh()
        self._pending.sweep()
        now = self._clock()
        for limit, until in self._status_deadlines.items():
            if now >= until and not limit.expired():
                limit.reschedule(0.0)  # at once
        self._metrics.add_totals((call.session, call.counted) for call in self._calls)
        for call in self._calls:
            enforce(self._policy, call, now)
            if call.checkpoints is not None and call.checkpoints.overdue:
                call.request_checkpoint()


def _end_reason(
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
    except grpc.aio.BaseError:
        raise
    except Exception as error:  # noqa: BLE001 - becomes the call's status
        return unexpected(call, error)
    return None
