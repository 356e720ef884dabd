"""The stream of one call: a gRPC stream of its own, or a line of a trunk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2

from streamer.errors import CallError, InvalidArgument
from streamer.rpc import voicecohort_pb2 as pb
from streamer.security.identity import StreamContext
from streamer.transport import converters

ABORT_SECONDS = 5.0
"""Seconds that a status may wait for a gateway that does not read."""

Context = grpc.aio.ServicerContext[pb.StreamClassifyRequest, pb.StreamClassifyResponse]


class Writer(Protocol):
    """Writes the responses of one call."""

    @property
    def writable(self) -> bool:
        """Whether :meth:`try_write` may be called."""

    def try_write(self, response: pb.StreamClassifyResponse) -> object:
        """Send a response without waiting; only while :attr:`writable`."""

    async def write(self, response: pb.StreamClassifyResponse) -> None:
        """Send a response; returns when the next may be sent."""


class Stream(StreamContext, Writer, Protocol):
    """Reads the requests of one call and writes its responses."""

    async def read(self) -> pb.StreamClassifyRequest | None:
        """Next request, or None at the half-close.

        Raises:
            CallError: the request cannot be processed.
        """

    def set_audio_handler(self, handler: Callable[[pb.StreamClassifyRequest], bool]) -> None:
        """Let a stream hand over requests that arrive while :meth:`read` waits.

        Args:
            handler: returns whether it processed the request; :meth:`read` raises its errors.
        """

    async def end(self, error: CallError) -> None:
        """End the stream with an error; nothing is written after."""


def undecodable(error: DecodeError) -> InvalidArgument:
    """Error for a message that protobuf cannot decode."""
    return InvalidArgument("message", "undecodable", str(error))


class GrpcStream:
    """A gRPC stream that carries one call."""

    writable = False

    def __init__(self, context: Context) -> None:
        self._context = context
        self.peer = context.peer
        self.auth_context = context.auth_context
        self.invocation_metadata = context.invocation_metadata
        self.write = context.write

    async def read(self) -> pb.StreamClassifyRequest | None:
        """See :class:`Stream`."""
        try:
            request: Any = await self._context.read()
        except DecodeError as error:
            raise undecodable(error) from error
        return request if isinstance(request, pb.StreamClassifyRequest) else None

    def set_audio_handler(self, handler: Callable[[pb.StreamClassifyRequest], bool]) -> None:
        """Ignore the handler: gRPC wakes a task for each message."""

    def try_write(self, response: pb.StreamClassifyResponse) -> None:
        """Not supported: each write to gRPC must be awaited."""
        raise NotImplementedError

    async def end(self, error: CallError) -> None:
        """The error's status and, where it has one, its retry delay."""
        await abort(self._context, error)


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: CallError) -> None:
    """End a stream with the error's status and, where it has one, its retry delay."""
    code = grpc.StatusCode[error.status]
    metadata: tuple[tuple[str, bytes], ...] = ()
    if error.retry_after is not None:
        details = AnyMessage()
        details.Pack(
            error_details_pb2.RetryInfo(retry_delay=converters.duration(error.retry_after))
        )
        status = status_pb2.Status(
            code=code_pb2.Code.Value(error.status), message=str(error), details=[details]
        )
        metadata = (("grpc-status-details-bin", status.SerializeToString()),)
    try:
        await context.abort(code, str(error), metadata)
    except grpc.aio.AbortError as aborted:
        # gRPC keeps it with the stream and raises it again itself. Its frames would keep the call
        # until the garbage collector runs, which for old objects is seldom.
        aborted.__traceback__ = None
