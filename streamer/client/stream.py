"""gRPC stream of one call, with the status that the server sent."""

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
    """Bidirectional gRPC stream; errors are raised as ``grpc.aio.AioRpcError``.

    Args:
        stream: open stream without writes so far.
    """

    def __init__(self, stream: grpc.aio.StreamStreamCall[Q, R]) -> None:
        self._stream = stream
        self._stream.add_done_callback(self._store_status)
        self._writing = asyncio.Lock()  # grpc.aio allows one write at a time
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
        """Half-close: no more requests follow."""
        await self._stream.done_writing()

    async def read(self) -> R | None:
        """Return the next response; None after the last one if the status is OK."""
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
        """Cancel the stream; no effect after its end."""
        self._stream.cancel()

    def _store_status(self, _: object) -> None:
        """Store the server's error as soon as it arrives.

        A write at the end of the stream makes grpc.aio overwrite the status with INTERNAL,
        "Internal error from Core" (grpc issue 36066), which hides the reason and the retry delay
        from the gateway. When this callback runs, the coroutine ends without waiting.
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
        """Raise the server's error if the stream ended with one."""
        await self._status()
        if self._error is not None:
            raise self._error


class CallStream(Protocol):
    """Stream of one call; errors are raised as ``grpc.aio.AioRpcError``."""

    async def start(self, config: pb.StreamConfig) -> pb.Started:
        """Send the config and return the server's ``started``."""

    async def write(self, request: Request) -> None:
        """Send one message."""

    async def half_close(self) -> None:
        """Half-close: no more requests follow."""

    async def read(self) -> Response | None:
        """Return the next response; None after the last one if the status is OK."""

    async def close(self) -> None:
        """Cancel the call; no effect after its end."""


async def start(stream: CallStream, config: pb.StreamConfig) -> pb.Started:
    """Send the config and return the server's ``started``."""
    await stream.write(Request(config=config))
    first = await stream.read()
    if first is None:
        raise ConnectionError("the server ended the call before it started")
    return first.started


class Stream(RpcStream[Request, Response]):
    """Stream of a call that ends with its connection."""

    async def start(self, config: pb.StreamConfig) -> pb.Started:
        """Send the config and return the server's ``started``."""
        return await start(self, config)
