"""One line of a trunk: to its call it is what a gRPC stream of its own would be."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping

from google.protobuf.message import DecodeError
from google.rpc import code_pb2

from streamer.errors import CallError, LimitExceeded
from streamer.rpc import envelope_pb2 as envelope
from streamer.rpc import voicecohort_pb2 as pb
from streamer.transport import converters as messages
from streamer.transport.stream import undecodable
from streamer.transport.trunk_writer import TrunkWriter

WINDOW = 256 << 10
"""Bytes of a line's requests that may wait to be taken, and the request that goes over."""
TELL = WINDOW // 4
"""Bytes after which a gateway is told how much was taken."""

Headers = tuple[tuple[str, str | bytes], ...]


class Line:
    """See :class:`streamer.transport.stream.Stream`.

    Args:
        number: of the line.
        outgoing: of the trunk.
        peer: address of the gateway.
        auth: properties of its certificate.
        metadata: of the trunk, with the line's own.
    """

    def __init__(
        self,
        number: int,
        outgoing: TrunkWriter,
        peer: str,
        auth: Mapping[str, Iterable[bytes]],
        metadata: Headers,
    ) -> None:
        self.number = number
        self._outgoing = outgoing
        self._peer = peer
        self._auth = auth
        self._metadata = metadata
        self._requests: deque[bytes] = deque()
        self._waiting = 0  # bytes
        self._taken = self._told = 0
        self._closed = self._ended = False
        self._excess: LimitExceeded | None = None
        self._loop = asyncio.get_running_loop()
        self._wanted: asyncio.Future[None] | None = None
        self._at_once: Callable[[pb.StreamClassifyRequest], bool] | None = None

    # --- told by the trunk ---

    def put(self, request: bytes) -> None:
        """A coded request has come."""
        if not self._requests and self._heard(request):
            return
        if self._waiting > WINDOW:
            self._excess = self._excess or LimitExceeded(
                "line", f"{self._waiting} bytes not yet taken", f"{WINDOW}", reason="unheard"
            )
        else:
            self._waiting += len(request) or 1  # nothing takes room too
            self._requests.append(request)
        self._wake()

    def _heard(self, request: bytes) -> bool:
        """Whether the call heard it at once, or failed on it, waiting for it as it does."""
        wanted = self._wanted
        if wanted is None or wanted.done() or self._at_once is None:
            return False
        try:
            if not self._at_once(self._decoded(request)):
                return False
        except Exception as error:  # noqa: BLE001 - the call's own task deals with it
            wanted.set_exception(error)
        else:
            self._count(len(request))
        return True

    def close(self) -> None:
        """Nothing more comes."""
        self._closed = True
        self._wake()

    def over(self, error: CallError | None, *, left: bool = False) -> None:
        """The call is over; says how it ended, unless that is said."""
        self._at_once = None
        if self._ended:
            return
        if left:
            self._say_end(envelope.LineEnd(code=code_pb2.CANCELLED, message="the gateway left"))
        else:
            self._say_end(line_end(error) if error else envelope.LineEnd(code=code_pb2.OK))

    def _wake(self) -> None:
        if self._wanted is not None and not self._wanted.done():
            self._wanted.set_result(None)

    # --- of the call ---

    def peer(self) -> str:
        """Address of the gateway."""
        return self._peer

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """Properties of its certificate."""
        return self._auth

    def invocation_metadata(self) -> Headers:
        """Headers."""
        return self._metadata

    async def read(self) -> pb.StreamClassifyRequest | None:
        """Next request, or None where a stream would be half-closed.

        Raises:
            InvalidArgument: it cannot be decoded.
            LimitExceeded: the gateway sent more than may wait.
        """
        while not self._requests:
            if self._excess is not None:
                raise self._excess
            if self._closed:
                return None
            self._wanted = self._loop.create_future()
            await self._wanted
        request = self._requests.popleft()
        self._take(request)
        return self._decoded(request)

    def _take(self, request: bytes) -> None:
        self._waiting -= len(request) or 1
        self._count(len(request))

    def _count(self, taken: int) -> None:
        """Bytes were taken; says so where the gateway is owed it."""
        self._taken += taken
        if self._taken - self._told >= TELL:
            self._told = self._taken
            told = envelope.Taken(bytes=self._taken)
            self._outgoing.say(envelope.LineResponse(line=self.number, taken=told))

    def _decoded(self, request: bytes) -> pb.StreamClassifyRequest:
        try:
            return pb.StreamClassifyRequest.FromString(request)
        except DecodeError as error:
            raise undecodable(error) from error

    def set_audio_handler(self, at_once: Callable[[pb.StreamClassifyRequest], bool]) -> None:
        """Have audio heard as it comes: to wake the call's task costs as much as to hear it."""
        self._at_once = at_once

    @property
    def writable(self) -> bool:
        """See :class:`streamer.transport.stream.Writer`."""
        return self._outgoing.writable

    def try_write(self, response: pb.StreamClassifyResponse) -> asyncio.Event:
        """Send one; the event is set when it is on its way."""
        coded = response.SerializeToString()
        return self._outgoing.say(envelope.LineResponse(line=self.number, response=coded))

    async def write(self, response: pb.StreamClassifyResponse) -> None:
        """Send one; returns when the next may be sent."""
        await self.try_write(response).wait()

    async def end(self, error: CallError) -> None:
        """Say that the call ended badly."""
        await self._say_end(line_end(error)).wait()

    def _say_end(self, end: envelope.LineEnd) -> asyncio.Event:
        self._ended = True
        return self._outgoing.say(envelope.LineResponse(line=self.number, end=end))


def line_end(error: CallError) -> envelope.LineEnd:
    """What a line says of an error."""
    end = envelope.LineEnd(code=code_pb2.Code.Value(error.status), message=str(error))
    if error.retry_after is not None:
        end.retry_delay.CopyFrom(messages.duration(error.retry_after))
    return end
