"""The gRPC stream of one call, with the status that the server gave it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Generic, Protocol, TypeVar

import grpc

from streamer.rpc import voicecohort_pb2 as pb

Request = pb.StreamClassifyRequest
Response = pb.StreamClassifyResponse


Q = TypeVar("Q")
R = TypeVar("R")


class RpcStream(Generic[Q, R]):
    """Errors are raised as ``grpc.aio.AioRpcError``.

    Args:
        stream: just opened; nothing written yet.
    """

    def __init__(self, stream: grpc.aio.StreamStreamCall[Q, R]) -> None:
        self._stream = stream
        self._stream.add_done_callback(self._remember_status)
        self._writing = asyncio.Lock()  # grpc.aio takes one write at a time
        self._error: grpc.aio.AioRpcError | None = None

    async def write(self, request: Q) -> None:
        """Send one message."""
        try:
            async with self._writing:
                await self._stream.write(request)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await self._raise_status()
            raise

    async def half_close(self) -> None:
        """Nothing more will be written."""
        await self._stream.done_writing()

    async def read(self) -> R | None:
        """Next response; None after the last of a stream that ended well."""
        try:
            response: Any = await self._stream.read()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await self._raise_status()
            raise
        if response is not grpc.aio.EOF:
            return response  # type: ignore[no-any-return]
        await self._raise_status()
        return None

    async def close(self) -> None:
        """Leave it; no effect on one that has ended."""
        self._stream.cancel()

    def _remember_status(self, _: object) -> None:
        """Keep the server's error as soon as it is there.

        A write that meets the end of the stream makes grpc.aio overwrite the status with INTERNAL,
        "Internal error from Core" (grpc issue 36066), and a gateway would not learn why its call
        ended or when to try again. When this callback runs, what is awaited here is known.
        """
        status = self._status()
        with contextlib.suppress(StopIteration):
            status.send(None)
        status.close()

    async def _status(self) -> None:
        code = await self._stream.code()
        if self._error is None and code is not grpc.StatusCode.OK:
            self._error = grpc.aio.AioRpcError(
                code,
                await self._stream.initial_metadata(),
                await self._stream.trailing_metadata(),
                details=await self._stream.details(),
            )

    async def _raise_status(self) -> None:
        """Raise the server's error, if the stream ended with one."""
        await self._status()
        if self._error is not None:
            raise self._error


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


class Stream(RpcStream[Request, Response]):
    """A call that ends with its connection."""

    async def begin(self, config: pb.StreamConfig) -> pb.Started:
        """Send the config; the server's answer to it."""
        return await begin(self, config)
