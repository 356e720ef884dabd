"""Carry calls on a trunk, as a gateway that sends the requests of all of them once a tick."""

from __future__ import annotations

import asyncio
import time
from typing import TypeAlias

import grpc
from google.rpc import code_pb2

from streamer.client.trunk import METHOD, split_messages
from streamer.client.trunk_line import FINISH, line_error
from streamer.rpc import envelope_pb2 as envelope

CLOSE_SECONDS = 5.0
"""For the server to end a trunk that is half-closed."""
RawTrunk: TypeAlias = grpc.aio.StreamStreamCall[bytes, bytes]


class TrunkLine:
    """One call of a trunk, with the part of ``grpc.aio.StreamStreamCall`` that a generator uses."""

    def __init__(self, number: int, trunk: TrunkGenerator) -> None:
        self._number = number
        self._trunk = trunk
        self.arrived: asyncio.Queue[bytes | grpc.aio.AioRpcError | None] = asyncio.Queue()

    async def write(self, request: bytes) -> None:
        """Queue a request for the next tick."""
        self._trunk.queue(envelope.LineRequest(line=self._number, request=request))

    async def done_writing(self) -> None:
        """Finish the call."""
        await self.write(FINISH.SerializeToString())

    async def read(self) -> bytes | None:
        """Return the next response; None after the last one of a call that ended OK."""
        response = await self.arrived.get()
        if isinstance(response, grpc.aio.AioRpcError):
            raise response
        return response

    def cancel(self) -> None:
        """Do nothing: the generator leaves only calls that have ended."""


class TrunkGenerator:
    """One trunk, opened with its first call.

    Args:
        channel: to the server.
        tick: seconds between two messages.
    """

    def __init__(self, channel: grpc.aio.Channel, tick: float) -> None:
        self._open: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(METHOD)
        self._tick = tick
        self._lines: dict[int, TrunkLine] = {}
        self._queued: list[envelope.LineRequest] = []
        self._stream: RawTrunk | None = None
        self._tasks: tuple[asyncio.Task[None], ...] = ()
        self._opened = 0

    def __call__(self) -> TrunkLine:
        """Open a call on a line of its own."""
        if self._stream is None:
            self._stream = self._open()
            self._tasks = (
                asyncio.create_task(self._send(self._stream)),
                asyncio.create_task(self._read(self._stream)),
            )
        self._opened += 1
        self._lines[self._opened] = line = TrunkLine(self._opened, self)
        return line

    def queue(self, request: envelope.LineRequest) -> None:
        """Queue a request for the next tick."""
        self._queued.append(request)

    async def close(self) -> None:
        """Close the trunk; no line is open any more.

        Read the stream to its end: gRPC would pass later events to a closed event loop, and drop
        those of other streams with them.
        """
        if self._stream is None:
            return
        # Drop the reference first: a cancelled task refers to this frame, which would be a cycle.
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
            if self._queued:
                queued, self._queued = self._queued, []
                for message in split_messages(queued):  # several, after a delay
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
                        self._lines.pop(item.line).arrived.put_nowait(line_error(item.end))
            end = envelope.LineEnd(code=code_pb2.UNAVAILABLE, message="the trunk ended")
            error = line_error(end)
        except grpc.aio.AioRpcError as broken:
            error = broken
        for line in self._lines.values():
            line.arrived.put_nowait(error)
