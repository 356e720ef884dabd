"""A gateway's end of a trunk, in the messages of the public protocol."""

import contextlib
from collections import defaultdict

import grpc
import numpy as np

from streamer.rpc import trunk_pb2 as trunk
from tests.streamer.wire import RATE, control, sound

FINISH = control("finish")
NOISE = np.random.default_rng(0).integers(-9000, 9000, 4 * RATE).astype(np.int16)
CHUNKS = [sound(n, part.tobytes()) for n, part in enumerate(np.split(NOISE, 40), start=1)]
"""Of linear16, 100 ms each."""


def item(line, request=None, **fields):
    """Something for one line."""
    return trunk.LineRequest(line=line, request=request, **fields)


def leave(line):
    return trunk.LineRequest(line=line, leave=trunk.Leave())


class Gateway:
    """Send items and sort the responses by line."""

    def __init__(self, channel, metadata=()):
        method = trunk.DESCRIPTOR.services_by_name["TrunkService"].methods[0]
        self.stream = channel.stream_stream(
            f"/{method.containing_service.full_name}/{method.name}",
            response_deserializer=trunk.StreamTrunkResponse.FromString,
        )(metadata=grpc.aio.Metadata(*metadata))
        self.responses = defaultdict(list)
        self.ends = {}
        self.taken = defaultdict(int)
        self.messages = 0

    async def send(self, *items):
        """All in one message."""
        await self.stream.write(trunk.StreamTrunkRequest(lines=items).SerializeToString())

    async def call(self, line, *requests):
        """A call from its config on, in one message."""
        await self.send(*(item(line, request) for request in requests))

    async def read(self):
        """One message; False at the end of the trunk."""
        message = await self.stream.read()
        if message is grpc.aio.EOF:
            return False
        self.messages += 1
        assert message.lines
        for response in message.lines:
            assert response.line not in self.ends, "something after the end of a line"
            kind = response.WhichOneof("event")
            if kind == "response":
                self.responses[response.line].append(response.response)
            elif kind == "taken":
                self.taken[response.line] = response.taken.bytes
            else:
                self.ends[response.line] = response.end
        return True

    async def until(self, *lines):
        """Read until those have ended."""
        while not set(lines) <= set(self.ends):
            assert await self.read(), f"the trunk ended before {lines}"

    async def began(self, *lines):
        """Read until those are accepted."""
        while not all(self.responses[line] for line in lines):
            assert await self.read(), f"the trunk ended before {lines}"

    async def status(self):
        """Read to the end; code and details."""
        with contextlib.suppress(grpc.aio.AioRpcError):
            while await self.read():
                pass
        return await self.stream.code(), await self.stream.details()

    def end(self, line):
        """Code and message of a line's end."""
        return grpc.StatusCode(self._value(line)), self.ends[line].message

    def _value(self, line):
        return next(c.value for c in grpc.StatusCode if c.value[0] == self.ends[line].code)

    def finals(self, line):
        return [r.prediction for r in self.responses[line] if r.prediction.final]
