"""A call's own gRPC stream."""

from __future__ import annotations

from typing import Protocol

from streamer.client.wire import Wire
from streamer.rpc import voicecohort_pb2 as pb

Request = pb.StreamClassifyRequest
Response = pb.StreamClassifyResponse


class CallStream(Protocol):
    """What a call goes through; errors are raised as ``grpc.aio.AioRpcError``."""

    async def begin(self, config: pb.StreamConfig) -> pb.Started:
        """Send the config; the server's answer to it."""

    async def write(self, request: Request) -> None:
        """Send one message."""

    async def half_close(self) -> None:
        """Nothing more will be written."""

    async def read(self) -> Response | None:
        """Next response; None after the last of a call that ended well."""

    async def close(self) -> None:
        """Leave the call; no effect on one that has ended."""


async def begin(stream: CallStream, config: pb.StreamConfig) -> pb.Started:
    """Send the config; the server's answer to it."""
    await stream.write(Request(config=config))
    first = await stream.read()
    if first is None:
        raise ConnectionError("the server ended the call before it began")
    return first.started


class Stream(Wire[Request, Response]):
    """A call that ends with its connection."""

    async def begin(self, config: pb.StreamConfig) -> pb.Started:
        """Send the config; the server's answer to it."""
        return await begin(self, config)
