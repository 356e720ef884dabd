"""Trunks: calls of a gateway that share gRPC streams, which costs both sides a fraction."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import grpc
from google.rpc import code_pb2

from streamer.client.stream import RpcStream
from streamer.client.trunk_line import Line
from streamer.rpc import envelope_pb2 as envelope

TICK = 0.01
"""Seconds that what one call sends waits for what others send."""
MOST_WAITING = 1 << 20
"""Bytes that may wait to be sent before calls wait."""
LARGEST = 1 << 19
"""Bytes of a message; a server need not take more than 1 MiB."""
ROOM = 128
"""Bytes of a line beside its request, at most."""
METHOD = "/voicecohort.v1.TrunkService/StreamTrunk"

Open: TypeAlias = grpc.aio.StreamStreamMultiCallable[
    envelope.StreamTrunkRequest, envelope.StreamTrunkResponse
]
Headers: TypeAlias = Sequence[tuple[str, str]]


class Trunk:
    """One stream of many calls.

    Args:
        stream: just opened.
        tick: seconds between two messages.
        over: called when it has ended.
    """

    def __init__(
        self,
        stream: RpcStream[envelope.StreamTrunkRequest, envelope.StreamTrunkResponse],
        tick: float,
        over: Callable[[Trunk], None],
    ) -> None:
        self.usable = True
        """Whether new calls should be opened on it."""
        self._stream = stream
        self._tick = tick
        self._lines: dict[int, Line] = {}
        self._opened = 0
        self._waiting: list[envelope.LineRequest] = []
        self._bytes = 0  # of them
        self._some, self._sent = asyncio.Event(), asyncio.Event()
        self._over = over
        self._task: asyncio.Task[None] | None = asyncio.create_task(self._run())
        self._task.add_done_callback(self._ended)

    def open(self) -> Line:
        """A call on a line of its own."""
        self._opened += 1
        self._lines[self._opened] = line = Line(self._opened, self)
        return line

    async def close(self) -> None:
        """Leave all calls."""
        if (task := self._task) is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _ended(self, _: object) -> None:
        # What cancelled it knows its frames, and those this: gRPC would keep the connection until
        # Python looks for cycles.
        self._task = None
        self._over(self)

    def _put(self, request: envelope.LineRequest) -> None:
        self._waiting.append(request)
        self._bytes += len(request.request)
        self._some.set()

    async def send(self, request: envelope.LineRequest) -> None:
        """Have it sent with the next message; waits while the connection takes nothing."""
        while self._bytes > MOST_WAITING and self.usable:
            await self._sent.wait()
        self._put(request)

    def leave(self, line: int) -> None:
        """Of a line, nothing more is wanted."""
        if self._lines.pop(line, None) is not None:
            self._put(envelope.LineRequest(line=line, leave=envelope.Leave()))

    async def _run(self) -> None:
        writer = asyncio.create_task(self._write_all())
        error = _error(grpc.StatusCode.CANCELLED, "the client was closed")
        try:
            error = await self._read_all()
        except grpc.aio.AioRpcError as broken:
            error = broken
        finally:
            self.usable = False
            writer.cancel()
            await self._stream.close()
            await asyncio.gather(writer, return_exceptions=True)  # its errors are the reader's too
            for line in self._lines.values():
                line.ended(_error(error.code(), error.details() or "", error.trailing_metadata()))
            self._sent.set()

    async def _write_all(self) -> None:
        while True:
            await self._some.wait()
            await asyncio.sleep(self._tick)
            self._some.clear()
            waiting, self._waiting, self._bytes = self._waiting, [], 0
            sent, self._sent = self._sent, asyncio.Event()
            try:
                for message in in_messages(waiting):
                    await self._stream.write(message)
            finally:
                sent.set()

    async def _read_all(self) -> grpc.aio.AioRpcError:
        """Until it ends, or no call is left on one that takes no more."""
        while self.usable or self._lines:
            message = await self._stream.read()
            if message is None:
                break
            for item in message.lines:
                line = self._lines.get(item.line)
                if line is not None:  # else it was left
                    line.told(item)
                    if line.over:
                        del self._lines[item.line]
                        # A server that shuts down takes no more calls, though its trunk goes on.
                        self.usable &= item.end.code != code_pb2.UNAVAILABLE
        return _error(grpc.StatusCode.UNAVAILABLE, "the server ended the trunk")


def _error(
    code: grpc.StatusCode, details: str, trailing: grpc.aio.Metadata | None = None
) -> grpc.aio.AioRpcError:
    nothing = grpc.aio.Metadata()
    return grpc.aio.AioRpcError(code, nothing, trailing or nothing, details)


def in_messages(requests: list[envelope.LineRequest]) -> Iterator[envelope.StreamTrunkRequest]:
    """The same in order, in messages of at most :data:`LARGEST` unless a request is more."""
    message, size = envelope.StreamTrunkRequest(), 0
    for request in requests:
        length = len(request.request) + ROOM
        if message.lines and size + length > LARGEST:
            yield message
            message, size = envelope.StreamTrunkRequest(), 0
        message.lines.append(request)
        size += length
    yield message


class Trunks:
    """Spreads calls over some trunks.

    Args:
        channel: to the servers.
        headers: of each trunk.
        count: of trunks; opened when they are first needed, and again when they broke.
        tick: seconds between two messages of a trunk.
    """

    def __init__(
        self, channel: grpc.aio.Channel, headers: Headers, count: int, tick: float = TICK
    ) -> None:
        self._open: Open = channel.stream_stream(
            METHOD,
            request_serializer=envelope.StreamTrunkRequest.SerializeToString,
            response_deserializer=envelope.StreamTrunkResponse.FromString,
        )
        self._headers = headers
        self._tick = tick
        self._slots: list[Trunk | None] = [None] * count
        self._next = 0
        self._running: set[Trunk] = set()

    def open(self) -> Line:
        """A call on the next trunk in turn."""
        slot = self._next
        self._next = (slot + 1) % len(self._slots)
        trunk = self._slots[slot]
        if trunk is None or not trunk.usable:
            stream = RpcStream(self._open(metadata=grpc.aio.Metadata(*self._headers)))
            trunk = Trunk(stream, self._tick, self._running.discard)
            self._slots[slot] = trunk
            self._running.add(trunk)
        return trunk.open()

    async def close(self) -> None:
        """Leave all calls."""
        await asyncio.gather(*(trunk.close() for trunk in self._running))
