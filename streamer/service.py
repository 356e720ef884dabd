"""The gRPC servicer: one call from its config to its status. No signal processing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import structlog

from streamer.call.admission import Admission
from streamer.call.call import Call
from streamer.call.setup import CallFactory, PendingStreams
from streamer.call.supervisor import CallSupervisor
from streamer.call.teardown import conclude, log_end, log_error, server_fault
from streamer.checkpoint.resumption import Resumption
from streamer.errors import CallError
from streamer.inference.registry import ModelRegistry
from streamer.observability.metrics import Metrics
from streamer.observability.tracing import Tracing
from streamer.rpc import voicecohort_pb2 as pb
from streamer.rpc import voicecohort_pb2_grpc as pb_grpc
from streamer.security.identity import Caller, Identities, StreamContext
from streamer.settings import ServerSettings
from streamer.transport.stream import ABORT_SECONDS, Context, GrpcStream, Stream

log = structlog.get_logger()

LARGE_TRUNK = 5
"""A trunk with more than one in so many of all calls does not wait for blocks of others."""
RESPONSE_DELAY_SECONDS = 0.004
"""Time that a trunk's message waits for more responses on a busy server: it halves the messages."""


class ClassifierService(pb_grpc.ClassifierServiceServicer):
    """The servicer.

    Args:
        models: that calls may use.
        settings: limits.
        clock: seconds, monotonic; injected so that tests need not wait.
        metrics: counts calls; a new one if None.
        identities: of callers; everyone may call if None.
        resumption: of calls that request checkpoints; such calls are refused if None.
        tracing: records calls; none are recorded if None.

    Attributes:
        supervisor: of all calls.
        draining: set when no more calls are accepted.
    """

    def __init__(
        self,
        models: ModelRegistry,
        settings: ServerSettings,
        clock: Callable[[], float] = time.monotonic,
        metrics: Metrics | None = None,
        identities: Identities | None = None,
        resumption: Resumption | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self._tracing = tracing or Tracing()
        self._metrics = metrics or Metrics()
        self._models = models
        self._clock = clock
        self._identities = identities or Identities()
        self._resumption = resumption
        self._pending = PendingStreams(settings.config_timeout, clock)
        self.supervisor = CallSupervisor(
            settings, models, self._pending, self._identities, self._metrics, clock
        )
        load = self.supervisor.load
        self._admission = Admission(settings, load)
        self._factory = CallFactory(
            models, settings, clock, self._metrics, load, resumption=resumption
        )
        self.draining = self.supervisor.draining

    async def StreamClassify(  # type: ignore[override]  # noqa: N802 - the name is the protocol's
        self,
        request_iterator: AsyncIterator[pb.StreamClassifyRequest],  # noqa: ARG002 - read() instead
        context: Context,
    ) -> None:
        """Serve one call, from its config to its status."""
        await self.serve(GrpcStream(context))

    async def serve(self, stream: Stream) -> None:
        """Serve one call, from its config to its end, in a task of its own."""
        trace = self._tracing.call(stream.invocation_metadata() or ())
        # The task serves this stream alone: these fields end with it.
        structlog.contextvars.bind_contextvars(**trace.log_fields)
        self.supervisor.stream_opened()
        caller: Caller | None = None
        call: Call | None = None
        error: CallError | None = None
        status, reason_code = "CANCELLED", "cancelled"
        try:
            try:
                self.supervisor.require_healthy()
                caller = self._identities.caller(stream)
                with self._admission.acquire(caller):
                    requested = await self._pending.wait_for_config(stream.read)
                    call = self._factory.create(requested, caller, trace)
                    self.supervisor.calls.add(call)
                    self._factory.send_started(call)
                    error = await self._run_call(call, stream)
            except CallError as raised:
                error = raised
            except grpc.aio.BaseError:
                raise  # the stream itself broke: no status can be sent
            except Exception as raised:  # noqa: BLE001 - becomes the call's status
                error = server_fault(call, raised)
            status, reason_code = (error.status, error.reason) if error else ("OK", "finished")
            if error is not None:
                identity = caller.identity if caller else ""
                log_error(call, error, identity=identity, peer=stream.peer())
                await self._send_status(stream, error)
        finally:
            self._cleanup(call, status, reason_code)
            trace.ended(status, reason_code, call.session if call else None)
            if error is not None:
                # Its frames hold the call and the error itself: free them now, not at the next
                # run of the garbage collector.
                error.__traceback__ = None

    async def _send_status(self, stream: Stream, error: CallError) -> None:
        """End the stream with a status, in limited time: a client may not read even that."""
        limit = asyncio.timeout(None)
        self.supervisor.status_deadlines[limit] = self._clock() + ABORT_SECONDS
        try:
            async with limit:
                await stream.end(error)
        except TimeoutError:
            log.warning("status_unread", status=error.status)
        finally:
            del self.supervisor.status_deadlines[limit]
            del limit  # it knows the task, whose end is an exception that knows this frame

    def _cleanup(self, call: Call | None, status: str, reason_code: str) -> None:
        """Release all that a stream had."""
        self.supervisor.stream_closed()
        if call is None:
            self._metrics.record_refusal(status, reason_code)
            return
        self.supervisor.calls.discard(call)
        call.close()
        self._models.release(call.model)
        if self._resumption is not None:
            self._resumption.unregister(call, complete=status == "OK")
        self._metrics.add_totals([(call.session, call.totals)])
        self._metrics.record_call_end(status, reason_code)
        log_end(call, status, reason_code)

    def trunk_message_received(self, calls: int) -> None:
        """Process blocks at once if a trunk has most of the calls and the server has time.

        Args:
            calls: of the trunk; they send nothing more until its next message.
        """
        supervisor = self.supervisor
        if LARGE_TRUNK * calls > supervisor.open_streams and not supervisor.load.busy:
            self._models.flush()

    def response_delay(self) -> float:
        """Seconds that a trunk's message should wait for more responses."""
        return RESPONSE_DELAY_SECONDS if self.supervisor.load.busy else 0.0

    def authorize(self, opener: StreamContext) -> str:
        """Identity of the opener of a trunk; raises CallError if it would get no call."""
        self.supervisor.require_healthy()
        return self._identities.caller(opener).identity

    async def _run_call(self, call: Call, stream: Stream) -> CallError | None:
        """Run an open call to its end; None if the gateway ended it."""
        reader = asyncio.create_task(call.receive_all(stream))
        writer = asyncio.create_task(call.responses.write_all(stream))
        try:
            ends: set[asyncio.Future[Any]] = {reader, writer, call.stopped}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            error = _end_reason(call, reader, writer)
            reader.cancel()
            return await conclude(call, writer, error)
        finally:
            reader.cancel()
            writer.cancel()
            await asyncio.gather(reader, writer, return_exceptions=True)


def _end_reason(
    call: Call, reader: asyncio.Task[None], writer: asyncio.Task[None]
) -> CallError | None:
    """Why a call ends; None for a half-close or a `finish`.

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
        return server_fault(call, error)
    return None
