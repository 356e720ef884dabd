"""One line of a trunk: the stream of one call on a stream that many share."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping

from google.protobuf.message import DecodeError
from google.rpc import code_pb2

from streamer.errors import CallError, LimitExceeded
from streamer.rpc import envelope_pb2 as envelope
from streamer.rpc import voicecohort_pb2 as pb
from streamer.transport import converters
from streamer.transport.stream import undecodable
from streamer.transport.trunk_writer import TrunkWriter

WINDOW = 256 << 10
"""Bytes of a line's requests that may wait; the request that exceeds it is accepted too."""
ACKNOWLEDGE_BYTES = WINDOW // 4
"""Bytes after which the gateway is sent how much was taken."""

Headers = tuple[tuple[str, str | bytes], ...]


class Line:
    """See :class:`streamer.transport.stream.Stream`.

    Args:
        number: of the line.
        writer: of the trunk.
        peer: address of the gateway.
        auth: properties of its certificate.
        metadata: of the trunk, with the line's own.
    """

    def __init__(
        self,
        number: int,
        writer: TrunkWriter,
        peer: str,
        auth: Mapping[str, Iterable[bytes]],
        metadata: Headers,
    ) -> None:
        self.number = number
        self._writer = writer
        self._peer = peer
        self._auth = auth
        self._metadata = metadata
        self._requests: deque[bytes] = deque()
        self._waiting = 0  # bytes
        self._taken = self._acknowledged = 0
        self._closed = self._ended = False
        self._excess: LimitExceeded | None = None
        self._loop = asyncio.get_running_loop()
        self._reading: asyncio.Future[None] | None = None
        self._handler: Callable[[pb.StreamClassifyRequest], bool] | None = None

    # --- used by the trunk ---

    def receive(self, request: bytes) -> None:
        """Process an encoded request, or queue it."""
        if not self._requests and self._handle(request):
            return
        if self._waiting > WINDOW:
            self._excess = self._excess or LimitExceeded(
                "line", f"{self._waiting} bytes not yet taken", f"{WINDOW}", reason="unheard"
            )
        else:
            self._waiting += len(request) or 1  # an empty request takes room too
            self._requests.append(request)
        self._wake()

    def _handle(self, request: bytes) -> bool:
        """Whether the call's handler processed the request, or failed on it."""
        reading = self._reading
        if reading is None or reading.done() or self._handler is None:
            return False
        try:
            if not self._handler(self._decode(request)):
                return False
        except Exception as error:  # noqa: BLE001 - the call's own task handles it
            reading.set_exception(error)
        else:
            self._count(len(request))
        return True

    def half_close(self) -> None:
        """Note that no more requests arrive."""
        self._closed = True
        self._wake()

    def finish(self, error: CallError | None, *, left: bool = False) -> None:
        """Send how the call ended, unless that was sent."""
        self._handler = None
        if self._ended:
            return
        if left:
            self._send_end(envelope.LineEnd(code=code_pb2.CANCELLED, message="the gateway left"))
        else:
            self._send_end(line_end(error) if error else envelope.LineEnd(code=code_pb2.OK))

    def _wake(self) -> None:
        if self._reading is not None and not self._reading.done():
            self._reading.set_result(None)

    # --- used by the call ---

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
        """Next request, or None after the half-close.

        Raises:
            InvalidArgument: it cannot be decoded.
            LimitExceeded: the gateway sent more than may wait.
        """
        while not self._requests:
            if self._excess is not None:
                raise self._excess
            if self._closed:
                return None
            self._reading = self._loop.create_future()
            await self._reading
        request = self._requests.popleft()
        self._waiting -= len(request) or 1
        self._count(len(request))
        return self._decode(request)

    def _count(self, taken: int) -> None:
        """Count bytes that were taken, and acknowledge them from time to time."""
        self._taken += taken
        if self._taken - self._acknowledged >= ACKNOWLEDGE_BYTES:
            self._acknowledged = self._taken
            taken_bytes = envelope.Taken(bytes=self._taken)
            self._writer.send(envelope.LineResponse(line=self.number, taken=taken_bytes))

    def _decode(self, request: bytes) -> pb.StreamClassifyRequest:
        try:
            return pb.StreamClassifyRequest.FromString(request)
        except DecodeError as error:
            raise undecodable(error) from error

    def set_audio_handler(self, handler: Callable[[pb.StreamClassifyRequest], bool]) -> None:
        """Process audio as it arrives: to wake the call's task costs as much as to process it."""
        self._handler = handler

    @property
    def writable(self) -> bool:
        """See :class:`streamer.transport.stream.Writer`."""
        return self._writer.writable

    def try_write(self, response: pb.StreamClassifyResponse) -> asyncio.Event:
        """Send a response; the event is set when it is sent."""
        coded = response.SerializeToString()
        return self._writer.send(envelope.LineResponse(line=self.number, response=coded))

    async def write(self, response: pb.StreamClassifyResponse) -> None:
        """Send a response; returns when the next may be sent."""
        await self.try_write(response).wait()

    async def end(self, error: CallError) -> None:
        """Send the error that the call ended with."""
        await self._send_end(line_end(error)).wait()

    def _send_end(self, end: envelope.LineEnd) -> asyncio.Event:
        self._ended = True
        return self._writer.send(envelope.LineResponse(line=self.number, end=end))


def line_end(error: CallError) -> envelope.LineEnd:
    """End of a line with the code, message and retry delay of an error."""
    end = envelope.LineEnd(code=code_pb2.Code.Value(error.status), message=str(error))
    if error.retry_after is not None:
        end.retry_delay.CopyFrom(converters.duration(error.retry_after))
    return end
