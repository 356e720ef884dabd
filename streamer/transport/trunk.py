"""Serve many calls on one gRPC stream, each on a line of its own.

gRPC costs the same for each message, however little is in it. For calls on streams of their own
that is the largest part of their cost; a trunk's message has the audio of all its calls.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator
from typing import Any, Protocol

import grpc
import structlog
from google.protobuf.message import DecodeError

from streamer.errors import (
    FULL_RETRY_SECONDS,
    CallError,
    Draining,
    InvalidArgument,
    LimitExceeded,
    ReadTimeout,
    ServerFault,
)
from streamer.rpc import envelope_pb2 as envelope
from streamer.rpc import trunk_pb2
from streamer.security.identity import StreamContext
from streamer.transport.stream import ABORT_SECONDS, Stream, abort
from streamer.transport.trunk_line import Headers, Line, line_end
from streamer.transport.trunk_writer import Context, TrunkWriter

log = structlog.get_logger()

EOF = grpc.aio.EOF
NAME = trunk_pb2.DESCRIPTOR.services_by_name["TrunkService"].full_name
SPARE_LINES = 100
"""Lines that may be open beyond the calls of a server, to be refused."""
REQUESTS_PER_TURN = 250
"""Requests that are processed before other tasks run."""
TRACEPARENT = "traceparent"


class CallHandler(Protocol):
    """Serves one call."""

    draining: asyncio.Event
    """Set when no more calls are accepted."""

    def authorize(self, opener: StreamContext) -> str:
        """Identity of the opener of a stream; raises CallError if it would get no call here."""

    async def serve(self, stream: Stream) -> None:
        """Serve a call, from its config to its end."""

    def trunk_message_received(self, calls: int) -> None:
        """Note that a trunk's message with audio of ``calls`` calls was processed."""

    def response_delay(self) -> float:
        """Seconds that a message to a gateway should wait for more responses."""


class _Trunk:
    """One trunk.

    Args:
        calls: serves its lines.
        context: of its stream.
        max_lines: that may be open. Twice as many responses may wait before reading stops: a call
            waits for each response to be sent.
        read_seconds: that the last responses may take to be read.
    """

    def __init__(
        self, calls: CallHandler, context: Context, max_lines: int, read_seconds: float
    ) -> None:
        self._calls = calls
        self._context = context
        self._max_lines = max_lines
        self._read_seconds = read_seconds
        self._writer = TrunkWriter(calls.response_delay)
        self._lines: dict[int, Line] = {}
        self._serving: dict[int, asyncio.Task[None]] = {}
        self._highest = -1
        self._idle = asyncio.Event()
        self._idle.set()
        self._peer = context.peer()
        self._auth = context.auth_context()
        self._metadata: Headers = tuple(context.invocation_metadata() or ())
        self._untraced = tuple(item for item in self._metadata if item[0] != TRACEPARENT)

    async def run(self) -> None:
        """Serve the trunk to its end; raises CallError if the gateway did not end it."""
        reader = asyncio.create_task(self._read_all())
        writer = asyncio.create_task(self._writer.send_all(self._context))
        drained = asyncio.create_task(self._drained())
        try:
            ends = {reader, writer, drained}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if writer.done():
                writer.result()
            if reader.done():
                reader.result()
                await self._idle.wait()
            self._writer.close()
            await asyncio.wait({writer}, timeout=self._read_seconds)
            if not writer.done():
                raise ReadTimeout(self._read_seconds)
            if not reader.done():
                raise Draining
        finally:
            every = [reader, writer, drained, *self._serving.values()]
            for task in every:
                task.cancel()
            await asyncio.gather(*every, return_exceptions=True)

    async def _drained(self) -> None:
        """Return when the server accepts no more calls and none is left."""
        await self._calls.draining.wait()
        await self._idle.wait()

    async def _read_all(self) -> None:
        while True:
            try:
                message: Any = await self._context.read()
            except DecodeError as error:
                raise InvalidArgument("message", "undecodable", str(error)) from error
            if message is EOF:
                break
            lines = self._lines
            for number, item in enumerate(message.lines, start=1):
                line, request = lines.get(item.line), item.request
                if line is not None and request:  # as nearly all are
                    line.receive(request)
                else:
                    self._dispatch(item)
                if not number % REQUESTS_PER_TURN:
                    await asyncio.sleep(0)  # a message can hold very many
            self._calls.trunk_message_received(len(self._lines))
            await self._writer.wait_for_room(2 * self._max_lines, self._read_seconds)
        for line in self._lines.values():
            line.half_close()

    def _dispatch(self, item: envelope.LineRequest) -> None:
        number = item.line
        line = self._lines.get(number)
        if line is None:
            if number <= self._highest:
                return  # the call ended before the gateway knew
            self._highest = number
            if len(self._lines) >= self._max_lines:
                self._refuse(number)
                return
            line = self._open(number, item.traceparent)
        if item.HasField("leave"):
            self._serving[number].cancel()
        else:
            line.receive(item.request)

    def _refuse(self, number: int) -> None:
        lines = len(self._lines) + 1
        error = LimitExceeded(
            "lines of a trunk", lines, self._max_lines, FULL_RETRY_SECONDS, reason="calls"
        )
        self._writer.send(envelope.LineResponse(line=number, end=line_end(error)))

    def _open(self, number: int, traceparent: bytes) -> Line:
        metadata = self._untraced
        if traceparent:
            metadata = (*metadata, (TRACEPARENT, traceparent.decode(errors="replace")))
        line = Line(number, self._writer, self._peer, self._auth, metadata)
        serving = asyncio.create_task(self._calls.serve(line))
        serving.add_done_callback(functools.partial(self._remove, line))
        self._lines[number], self._serving[number] = line, serving
        self._idle.clear()
        return line

    def _remove(self, line: Line, serving: asyncio.Task[None]) -> None:
        del self._lines[line.number], self._serving[line.number]
        if not self._lines:
            self._idle.set()
        if serving.cancelled():
            line.finish(None, left=True)
        elif (error := serving.exception()) is not None:
            log.error("trunk_line_exception", exc_info=error)
            line.finish(ServerFault(error))
        else:
            line.finish(None)


class TrunkService:
    """The servicer.

    Args:
        calls: serves them.
        max_calls: of the server.
        patience: seconds that the last responses of a trunk may take to be read.
    """

    def __init__(self, calls: CallHandler, max_calls: int, read_seconds: float) -> None:
        self._calls = calls
        self._max_lines = max_calls + SPARE_LINES
        self._read_seconds = read_seconds

    async def StreamTrunk(  # noqa: N802 - the name is the protocol's
        self,
        request_iterator: AsyncIterator[envelope.StreamTrunkRequest],  # noqa: ARG002 - read() instead
        context: Context,
    ) -> None:
        """Serve one trunk, to its status."""
        caller = {"peer": context.peer()}
        try:
            caller = {"identity": self._calls.authorize(context)}
            await _Trunk(self._calls, context, self._max_lines, self._read_seconds).run()
        except CallError as error:
            log.info("trunk_ended", status=error.status, reason=str(error), **caller)
            try:
                async with asyncio.timeout(ABORT_SECONDS):
                    await abort(context, error)
            except TimeoutError:
                log.warning("status_unread", status=error.status)
            # Its frames know the task that it ended: free them now, not at the next collection.
            error.__traceback__ = None

    def add_to(self, server: grpc.aio.Server) -> None:
        """Add the service to a server; lines stay encoded, see ``envelope.proto``."""
        handler = grpc.stream_stream_rpc_method_handler(
            self.StreamTrunk,
            request_deserializer=envelope.StreamTrunkRequest.FromString,
            response_serializer=envelope.StreamTrunkResponse.SerializeToString,
        )
        handlers = grpc.method_handlers_generic_handler(NAME, {"StreamTrunk": handler})
        server.add_generic_rpc_handlers((handlers,))
