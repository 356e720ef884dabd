"""What the lines of a trunk have to say, on its way to the gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc

from streamer.errors import ReadTimeout
from streamer.rpc import envelope_pb2 as envelope

LARGEST = 1 << 20
"""Bytes of a message to the gateway, and the response that goes over; gRPC's clients take 4 MiB."""

Context = grpc.aio.ServicerContext[envelope.StreamTrunkRequest, envelope.StreamTrunkResponse]


class TrunkWriter:
    """Gathers responses while the message before is being sent.

    Args:
        gather: seconds that a message waits for more responses.
    """

    def __init__(self, gather: Callable[[], float]) -> None:
        self._gather = gather
        self._responses: list[envelope.LineResponse] = []
        self._sent = asyncio.Event()
        self._some, self._room = asyncio.Event(), asyncio.Event()
        self._complete = False
        self.writable = True
        """Nothing is in the way: what is said now is as good as sent."""

    def say(self, response: envelope.LineResponse) -> asyncio.Event:
        """Queue one; the event is set when it is sent."""
        self._responses.append(response)
        self._some.set()
        return self._sent

    def complete(self) -> None:
        """Nothing more will be said."""
        self._complete = True
        self._some.set()

    async def at_most(self, waiting: int, seconds: float) -> None:
        """Return when no more responses than that wait to be sent.

        Raises:
            ReadTimeout: none was sent for so long.
        """
        while len(self._responses) > waiting:
            self._room.clear()
            try:
                async with asyncio.timeout(seconds):
                    await self._room.wait()
            except TimeoutError:
                raise ReadTimeout(seconds) from None

    async def send_all(self, context: Context) -> None:
        """Until :meth:`complete`."""
        while True:
            await self._some.wait()
            if seconds := self._gather():
                await asyncio.sleep(seconds)
            self._some.clear()
            responses, self._responses = self._responses, []
            self._room.set()
            sent, self._sent = self._sent, asyncio.Event()
            self.writable = False
            for message in _messages(responses):
                await context.write(message)
            self.writable = True
            sent.set()
            if self._complete and not self._responses:
                return


def _messages(responses: list[envelope.LineResponse]) -> list[envelope.StreamTrunkResponse]:
    """The same in order, in messages of not much more than :data:`LARGEST`."""
    made, size = [], LARGEST
    for response in responses:
        if size >= LARGEST:
            made.append(envelope.StreamTrunkResponse())
            size = 0
        made[-1].lines.append(response)
        size += len(response.response)
    return made
