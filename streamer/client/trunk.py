"""Trunks: gRPC streams shared by many calls of a gateway, which costs less CPU on both sides."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import grpc
from google.rpc import code_pb2

from streamer.client.stream import RpcStream
from streamer.client.trunk_line import Line
from streamer.rpc import envelope_pb2 as envelope

BATCH_DELAY_SECONDS = 0.01
"""Time that a request waits for requests of other calls."""
MAX_QUEUED_BYTES = 1 << 20
"""Queued bytes beyond which calls wait."""
MAX_MESSAGE_BYTES = 1 << 19
"""Size of a message; a server may refuse more than 1 MiB."""
MAX_OVERHEAD_BYTES = 128
"""Bytes that the envelope adds to a request."""
METHOD = "/voicecohort.v1.TrunkService/StreamTrunk"

StreamTrunkCallable: TypeAlias = grpc.aio.StreamStreamMultiCallable[
    envelope.StreamTrunkRequest, envelope.StreamTrunkResponse
]
Headers: TypeAlias = Sequence[tuple[str, str]]


class Trunk:
    """One stream of many calls.

    Args:
        stream: open stream without writes so far.
        delay_seconds: time that a request waits for requests of other calls.
        on_end: called when the stream has ended.
    """

    def __init__(
        self,
        stream: RpcStream[envelope.StreamTrunkRequest, envelope.StreamTrunkResponse],
        delay_seconds: float,
        on_end: Callable[[Trunk], None],
    ) -> None:
        self.usable = True
        """Whether new calls may be opened on this trunk."""
        self._stream = stream
        self._delay_seconds = delay_seconds
        self._lines: dict[int, Line] = {}
        self._opened = 0
        self._queued: list[envelope.LineRequest] = []
        self._bytes = 0  # of the queued requests
        self._available, self._sent = asyncio.Event(), asyncio.Event()
        self._on_end = on_end
        self._task: asyncio.Task[None] | None = asyncio.create_task(self._run())
        self._task.add_done_callback(self._notify_end)

    def open(self) -> Line:
        """Open a line for a new call."""
        self._opened += 1
        self._lines[self._opened] = line = Line(self._opened, self)
        return line

    async def close(self) -> None:
        """Cancel all calls."""
        if (task := self._task) is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _notify_end(self, _: object) -> None:
        # Breaks a reference cycle over the frames of a cancelled task: gRPC would keep the
        # connection until the garbage collector runs.
        self._task = None
        self._on_end(self)

    def _enqueue(self, request: envelope.LineRequest) -> None:
        self._queued.append(request)
        self._bytes += len(request.request)
        self._available.set()

    async def send(self, request: envelope.LineRequest) -> None:
        """Queue a request for the next message; waits while the queue is full."""
        while self._bytes > MAX_QUEUED_BYTES and self.usable:
            await self._sent.wait()
        self._enqueue(request)

    def leave(self, line: int) -> None:
        """Cancel a line: the server discards its call."""
        if self._lines.pop(line, None) is not None:
            self._enqueue(envelope.LineRequest(line=line, leave=envelope.Leave()))

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
            await asyncio.gather(writer, return_exceptions=True)  # the reader raises its errors
            for line in self._lines.values():
                line.end(_error(error.code(), error.details() or "", error.trailing_metadata()))
            self._sent.set()

    async def _write_all(self) -> None:
        while True:
            await self._available.wait()
            await asyncio.sleep(self._delay_seconds)
            self._available.clear()
            queued, self._queued, self._bytes = self._queued, [], 0
            sent, self._sent = self._sent, asyncio.Event()
            try:
                for message in split_messages(queued):
                    await self._stream.write(message)
            finally:
                sent.set()

    async def _read_all(self) -> grpc.aio.AioRpcError:
        """Process messages until the stream ends or is unusable without calls; return the error."""
        while self.usable or self._lines:
            message = await self._stream.read()
            if message is None:
                break
            for item in message.lines:
                line = self._lines.get(item.line)
                if line is not None:  # else the call was cancelled
                    line.receive(item)
                    if line.done:
                        del self._lines[item.line]
                        # A server that shuts down accepts no more calls on the trunk.
                        self.usable &= item.end.code != code_pb2.UNAVAILABLE
        return _error(grpc.StatusCode.UNAVAILABLE, "the server ended the trunk")


def _error(
    code: grpc.StatusCode, details: str, trailing: grpc.aio.Metadata | None = None
) -> grpc.aio.AioRpcError:
    empty = grpc.aio.Metadata()
    return grpc.aio.AioRpcError(code, empty, trailing or empty, details)


def split_messages(requests: list[envelope.LineRequest]) -> Iterator[envelope.StreamTrunkRequest]:
    """Split requests, in order, into messages of at most :data:`MAX_MESSAGE_BYTES`.

    A larger request gets a message of its own.
    """
    message, size = envelope.StreamTrunkRequest(), 0
    for request in requests:
        length = len(request.request) + MAX_OVERHEAD_BYTES
        if message.lines and size + length > MAX_MESSAGE_BYTES:
            yield message
            message, size = envelope.StreamTrunkRequest(), 0
        message.lines.append(request)
        size += length
    yield message


class Trunks:
    """Spreads calls over trunks.

    Args:
        channel: channel to the servers.
        headers: gRPC headers of each trunk.
        count: number of trunks; a trunk opens at its first call, and again after it broke.
        delay_seconds: see :class:`Trunk`.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        headers: Headers,
        count: int,
        delay_seconds: float = BATCH_DELAY_SECONDS,
    ) -> None:
        self._open_stream: StreamTrunkCallable = channel.stream_stream(
            METHOD,
            request_serializer=envelope.StreamTrunkRequest.SerializeToString,
            response_deserializer=envelope.StreamTrunkResponse.FromString,
        )
        self._headers = headers
        self._delay_seconds = delay_seconds
        self._slots: list[Trunk | None] = [None] * count
        self._next = 0
        self._running: set[Trunk] = set()

    def open(self) -> Line:
        """Open a call on the next trunk in turn."""
        slot = self._next
        self._next = (slot + 1) % len(self._slots)
        trunk = self._slots[slot]
        if trunk is None or not trunk.usable:
            stream = RpcStream(self._open_stream(metadata=grpc.aio.Metadata(*self._headers)))
            trunk = Trunk(stream, self._delay_seconds, self._running.discard)
            self._slots[slot] = trunk
            self._running.add(trunk)
        return trunk.open()

    async def close(self) -> None:
        """Cancel all calls."""
        await asyncio.gather(*(trunk.close() for trunk in self._running))
