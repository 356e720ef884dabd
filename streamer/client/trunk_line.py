"""A call's line on a trunk; it behaves as :class:`~streamer.client.stream.Stream` does."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import code_pb2, error_details_pb2, status_pb2

from streamer.client.retry import DETAILS_KEY
from streamer.client.stream import begin
from streamer.rpc import envelope_pb2 as envelope
from streamer.rpc import voicecohort_pb2 as pb

Request = pb.StreamClassifyRequest
Response = pb.StreamClassifyResponse

WINDOW = 256 << 10
"""Bytes that may be sent beyond what the server has taken, see ``Taken`` in the protocol."""
FINISH = Request(control=pb.Control(finish=pb.Finish()))
CODES = {code.value[0]: code for code in grpc.StatusCode}


def status(end: envelope.LineEnd) -> grpc.aio.AioRpcError | None:
    """What a stream that ended so would raise; None for one that ended well."""
    if end.code == code_pb2.OK:
        return None
    trailing = grpc.aio.Metadata()
    if end.HasField("retry_delay"):
        details = AnyMessage()
        details.Pack(error_details_pb2.RetryInfo(retry_delay=end.retry_delay))
        told = status_pb2.Status(code=end.code, message=end.message, details=[details])
        trailing.add(DETAILS_KEY, told.SerializeToString())
    code = CODES.get(end.code, grpc.StatusCode.UNKNOWN)
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, end.message)


class Trunk(Protocol):
    """What a line sends by."""

    async def send(self, request: envelope.LineRequest) -> None:
        """Have it sent; waits while the connection takes nothing."""

    def leave(self, line: int) -> None:
        """Of a line, nothing more is wanted."""


class Line:
    """Errors are raised as ``grpc.aio.AioRpcError``.

    What the gateway leaves unread does not pile up: a prediction takes the place of an unread
    older one of its channel, a checkpoint that of an older one.

    Args:
        number: of the line.
        trunk: takes what is said.
    """

    def __init__(self, number: int, trunk: Trunk) -> None:
        self.number = number
        self.over = False
        """Nothing more comes of it."""
        self._trunk = trunk
        self._sent = self._taken = 0  # bytes
        self._unread: deque[Response] = deque()
        self._error: grpc.aio.AioRpcError | None = None
        self._half_closed = False
        self._changed = asyncio.Event()

    # --- for the call ---

    async def begin(self, config: pb.StreamConfig) -> pb.Started:
        """Send the config; the server's answer to it."""
        return await begin(self, config)

    async def write(self, request: Request) -> None:
        """Send one message; waits while the server has not taken what it got."""
        while self._sent - self._taken >= WINDOW and not self.over:
            await self._change()
        if self._error is not None:
            raise self._error.with_traceback(None)
        if self.over or self._half_closed:
            raise asyncio.InvalidStateError("the call is over")
        coded = request.SerializeToString()
        self._sent += len(coded)
        await self._trunk.send(envelope.LineRequest(line=self.number, request=coded))

    async def half_close(self) -> None:
        """Nothing more will be written."""
        if not (self._half_closed or self.over):
            await self.write(FINISH)
        self._half_closed = True

    async def read(self) -> Response | None:
        """Next response; None after the last of a call that ended well."""
        while not self._unread:
            if self.over:
                if self._error is not None:
                    raise self._error.with_traceback(None)
                return None
            await self._change()
        return self._unread.popleft()

    async def close(self) -> None:
        """Leave the call; no effect on one that has ended."""
        if not self.over:
            self._trunk.leave(self.number)
            self.ended(None)

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    # --- told by the trunk ---

    def told(self, item: envelope.LineResponse) -> None:
        """Something came of it."""
        kind = item.WhichOneof("event")
        if kind == "response":
            response = Response.FromString(item.response)
            self._overtake(response)
            self._unread.append(response)
        elif kind == "taken":
            self._taken = item.taken.bytes
        elif kind == "end":
            self.over, self._error = True, status(item.end)
        self._changed.set()

    def ended(self, error: grpc.aio.AioRpcError | None) -> None:
        """Its trunk broke, or it was left."""
        self.over = True
        self._error = error
        self._changed.set()

    def _overtake(self, newer: Response) -> None:
        kind = newer.WhichOneof("message")
        for index, older in enumerate(self._unread):
            if older.WhichOneof("message") != kind or kind not in {"prediction", "checkpoint"}:
                continue
            if kind == "checkpoint" or older.prediction.channel == newer.prediction.channel:
                del self._unread[index]
                return
