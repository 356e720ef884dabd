"""Calls that share a trunk: a gateway that sends what it has for all of them once a tick."""

from __future__ import annotations

import asyncio
import time
from typing import TypeAlias

from load import polling  # noqa: F401 - how gRPC polls is settled when it is loaded

# isort: split
import grpc
from google.rpc import code_pb2

from streamer.client.trunk import METHOD, split_messages
from streamer.client.trunk_line import FINISH, status
from streamer.rpc import envelope_pb2 as envelope

CLOSE_SECONDS = 5.0
"""For the server to end a trunk that is half-closed."""
RawTrunk: TypeAlias = grpc.aio.StreamStreamCall[bytes, bytes]


class Line:
    """One call of a trunk, with as much of ``grpc.aio.StreamStreamCall`` as the generator uses."""

    def __init__(self, number: int, trunk: Trunk) -> None:
        self._number = number
        self._trunk = trunk
        self.arrived: asyncio.Queue[bytes | grpc.aio.AioRpcError | None] = asyncio.Queue()

    async def write(self, request: bytes) -> None:
        """Goes out at the next tick."""
        self._trunk.put(envelope.LineRequest(line=self._number, request=request))

    async def done_writing(self) -> None:
        """Finish the call."""
        await self.write(FINISH.SerializeToString())

    async def read(self) -> bytes | None:
        """Next response; None after the last of a call that ended well."""
        response = await self.arrived.get()
        if isinstance(response, grpc.aio.AioRpcError):
            raise response
        return response

    def cancel(self) -> None:
        """The generator leaves only calls that have ended."""


class Trunk:
    """One trunk, opened at its first line.

    Args:
        channel: to the server.
        tick: seconds between two messages.
    """

    def __init__(self, channel: grpc.aio.Channel, tick: float) -> None:
        self._open: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(METHOD)
        self._tick = tick
        self._lines: dict[int, Line] = {}
        self._waiting: list[envelope.LineRequest] = []
        self._stream: RawTrunk | None = None
        self._tasks: tuple[asyncio.Task[None], ...] = ()
        self._opened = 0

    def __call__(self) -> Line:
        """A call on a line of its own."""
        if self._stream is None:
            self._stream = self._open()
            self._tasks = (
                asyncio.create_task(self._send(self._stream)),
                asyncio.create_task(self._read(self._stream)),
            )
        self._opened += 1
        self._lines[self._opened] = line = Line(self._opened, self)
        return line

    def put(self, request: envelope.LineRequest) -> None:
        """To be sent at the next tick."""
        self._waiting.append(request)

    async def close(self) -> None:
        """No line is open any more.

        The stream is read to its end: gRPC tells what comes later to a loop that is closed, and
        then leaves out what it had for others.
        """
        if self._stream is None:
            return
        # Not kept: what cancels a task knows its frame, and that this, which would know the task.
        (sending, reading), self._tasks = self._tasks, ()
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._stream.done_writing()
                await reading
        except (TimeoutError, grpc.aio.AioRpcError, asyncio.InvalidStateError):
            self._stream.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _send(self, stream: RawTrunk) -> None:
        due = time.monotonic()
        while True:
            due += self._tick
            await asyncio.sleep(due - time.monotonic())
            if self._waiting:
                waiting, self._waiting = self._waiting, []
                for message in split_messages(waiting):  # many, if it was held up
                    await stream.write(message.SerializeToString())

    async def _read(self, stream: RawTrunk) -> None:
        parse = envelope.StreamTrunkResponse.FromString
        try:
            while isinstance(data := await stream.read(), bytes):
                for item in parse(data).lines:
                    kind = item.WhichOneof("event")
                    if kind == "response":
                        self._lines[item.line].arrived.put_nowait(item.response)
                    elif kind == "end":
                        self._lines.pop(item.line).arrived.put_nowait(status(item.end))
            error = status(envelope.LineEnd(code=code_pb2.UNAVAILABLE, message="the trunk ended"))
        except grpc.aio.AioRpcError as broken:
            error = broken
        for line in self._lines.values():
            line.arrived.put_nowait(error)
