"""Write the responses of all lines of a trunk in batches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc

from streamer.errors import ReadTimeout
from streamer.rpc import envelope_pb2 as envelope

MAX_MESSAGE_BYTES = 1 << 20
"""Size from which on a message takes no further response; gRPC's clients accept 4 MiB."""

Context = grpc.aio.ServicerContext[envelope.StreamTrunkRequest, envelope.StreamTrunkResponse]


class TrunkWriter:
    """Gathers responses while the previous message is being sent.

    Args:
        delay: seconds that a message waits for more responses.
    """

    def __init__(self, delay: Callable[[], float]) -> None:
        self._delay = delay
        self._responses: list[envelope.LineResponse] = []
        self._sent = asyncio.Event()
        self._some, self._shorter = asyncio.Event(), asyncio.Event()
        self._closed = False
        self.writable = True
        """Nothing is being sent: a response goes out with the next message."""

    def send(self, response: envelope.LineResponse) -> asyncio.Event:
        """Queue a response; the event is set when it is sent."""
        self._responses.append(response)
        self._some.set()
        return self._sent

    def close(self) -> None:
        """Accept no more responses."""
        self._closed = True
        self._some.set()

    async def wait_for_room(self, waiting: int, seconds: float) -> None:
        """Return when at most ``waiting`` responses wait to be sent.

        Raises:
            ReadTimeout: no message was sent for ``seconds``.
        """
        while len(self._responses) > waiting:
            self._shorter.clear()
            try:
                async with asyncio.timeout(seconds):
                    await self._shorter.wait()
            except TimeoutError:
                raise ReadTimeout(seconds) from None

    async def send_all(self, context: Context) -> None:
        """Send messages until :meth:`close`."""
        while True:
            await self._some.wait()
            if seconds := self._delay():
                await asyncio.sleep(seconds)
            self._some.clear()
            responses, self._responses = self._responses, []
            self._shorter.set()
            sent, self._sent = self._sent, asyncio.Event()
            self.writable = False
            for message in _messages(responses):
                await context.write(message)
            self.writable = True
            sent.set()
            if self._closed and not self._responses:
                return


def _messages(responses: list[envelope.LineResponse]) -> list[envelope.StreamTrunkResponse]:
    """Pack responses, in order, into messages of not much more than :data:`MAX_MESSAGE_BYTES`."""
    made, size = [], MAX_MESSAGE_BYTES
    for response in responses:
        if size >= MAX_MESSAGE_BYTES:
            made.append(envelope.StreamTrunkResponse())
            size = 0
        made[-1].lines.append(response)
        size += len(response.response)
    return made
