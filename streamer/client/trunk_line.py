"""One call of a trunk; behaves like :class:`~streamer.client.stream.Stream`."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import code_pb2, error_details_pb2, status_pb2

from streamer.client.retry import DETAILS_KEY
from streamer.client.stream import start
from streamer.rpc import envelope_pb2 as envelope
from streamer.rpc import voicecohort_pb2 as pb

Request = pb.StreamClassifyRequest
Response = pb.StreamClassifyResponse

WINDOW_BYTES = 256 << 10
"""Bytes that may be in flight, see ``Taken`` in the protocol."""
FINISH = Request(control=pb.Control(finish=pb.Finish()))
CODES = {code.value[0]: code for code in grpc.StatusCode}


def line_error(end: envelope.LineEnd) -> grpc.aio.AioRpcError | None:
    """Return the error that a gRPC stream with this end would raise; None for OK."""
    if end.code == code_pb2.OK:
        return None
    trailing = grpc.aio.Metadata()
    if end.HasField("retry_delay"):
        details = AnyMessage()
        details.Pack(error_details_pb2.RetryInfo(retry_delay=end.retry_delay))
        status = status_pb2.Status(code=end.code, message=end.message, details=[details])
        trailing.add(DETAILS_KEY, status.SerializeToString())
    code = CODES.get(end.code, grpc.StatusCode.UNKNOWN)
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, end.message)


class LineSender(Protocol):
    """Outgoing side of a trunk."""

    async def send(self, request: envelope.LineRequest) -> None:
        """Queue a request; waits while the queue is full."""

    def leave(self, line: int) -> None:
        """Cancel a line."""


class Line:
    """Stream of one call on a trunk; errors are raised as ``grpc.aio.AioRpcError``.

    Unread responses stay few: a prediction replaces an unread older one of its channel, and a
    checkpoint an unread older one.

    Args:
        number: id of the line on its trunk.
        trunk: sends the requests.
    """

    def __init__(self, number: int, trunk: LineSender) -> None:
        self.number = number
        self.done = False
        """Whether the line has ended."""
        self._trunk = trunk
        self._sent = self._taken = 0  # bytes
        self._unread: deque[Response] = deque()
        self._error: grpc.aio.AioRpcError | None = None
        self._half_closed = False
        self._changed = asyncio.Event()

    # --- for the call ---

    async def start(self, config: pb.StreamConfig) -> pb.Started:
        """Send the config and return the server's ``started``."""
        return await start(self, config)

    async def write(self, request: Request) -> None:
        """Send one request; waits while the flow-control window is full."""
        while self._sent - self._taken >= WINDOW_BYTES and not self.done:
            await self._wait_for_change()
        if self._error is not None:
            raise self._error.with_traceback(None)
        if self.done or self._half_closed:
            raise asyncio.InvalidStateError("the call has ended")
        data = request.SerializeToString()
        self._sent += len(data)
        await self._trunk.send(envelope.LineRequest(line=self.number, request=data))

    async def half_close(self) -> None:
        """Half-close: no more requests follow."""
        if not (self._half_closed or self.done):
            await self.write(FINISH)
        self._half_closed = True

    async def read(self) -> Response | None:
        """Return the next response; None after the last one if the status is OK."""
        while not self._unread:
            if self.done:
                if self._error is not None:
                    raise self._error.with_traceback(None)
                return None
            await self._wait_for_change()
        return self._unread.popleft()

    async def close(self) -> None:
        """Cancel the call; no effect after its end."""
        if not self.done:
            self._trunk.leave(self.number)
            self.end(None)

    async def _wait_for_change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    # --- for the trunk ---

    def receive(self, item: envelope.LineResponse) -> None:
        """Process a response of the server."""
        kind = item.WhichOneof("event")
        if kind == "response":
            response = Response.FromString(item.response)
            self._drop_replaced(response)
            self._unread.append(response)
        elif kind == "taken":
            self._taken = item.taken.bytes
        elif kind == "end":
            self.done, self._error = True, line_error(item.end)
        self._changed.set()

    def end(self, error: grpc.aio.AioRpcError | None) -> None:
        """End the line: its trunk broke, or the call was cancelled."""
        self.done = True
        self._error = error
        self._changed.set()

    def _drop_replaced(self, newer: Response) -> None:
        kind = newer.WhichOneof("message")
        for index, older in enumerate(self._unread):
            if older.WhichOneof("message") != kind or kind not in {"prediction", "checkpoint"}:
                continue
            if kind == "checkpoint" or older.prediction.channel == newer.prediction.channel:
                del self._unread[index]
                return
