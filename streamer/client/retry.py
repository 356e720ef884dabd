"""When a call that lost its stream tries again, and when it gives up."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from grpc_status import rpc_status

Code = grpc.StatusCode

FIRST_BACKOFF = 0.2
MAX_BACKOFF = 5.0
"""Seconds; an upper limit, doubled from the first at each attempt."""
MAX_BROKEN = 5
"""Streams that began and broke without progress: audio that kills servers must not kill all."""
MAX_FAILED = 2
"""Attempts without progress after an error of the server itself, such as failed inference."""
DETAILS_KEY = "grpc-status-details-bin"


def retry_delay(error: grpc.aio.AioRpcError) -> float | None:
    """Seconds that the server asks to wait (google.rpc.RetryInfo), None if it does not."""
    try:
        status = rpc_status.from_call(error)
    except ValueError:
        return None  # of a proxy that changed the status
    info = error_details_pb2.RetryInfo()
    for detail in status.details if status else ():
        if detail.Unpack(info):
            delay: Duration = info.retry_delay
            return max(0.0, delay.ToNanoseconds() / 1e9)
    return None


def may_pass(error: grpc.aio.AioRpcError, *, began: bool) -> bool:
    """Whether a new stream may do better: the connection or a server broke, or was full.

    A proxy that loses the server behind it resets the stream, which shows as INTERNAL, UNKNOWN,
    CANCELLED or UNAVAILABLE. RESOURCE_EXHAUSTED without a delay on a running call is a mistake
    of the caller, such as too long a message.
    """
    if error.code() is Code.RESOURCE_EXHAUSTED:
        return not began or retry_delay(error) is not None
    return error.code() in {Code.UNAVAILABLE, Code.INTERNAL, Code.UNKNOWN, Code.CANCELLED}


def _with_details(error: grpc.aio.AioRpcError, details: str) -> grpc.aio.AioRpcError:
    """The same error in other words; those in google.rpc.Status must be the same."""
    trailing = grpc.aio.Metadata(
        *((k, v) for k, v in error.trailing_metadata() or () if k != DETAILS_KEY)
    )
    if retry_delay(error) is not None:
        status = rpc_status.from_call(error)
        status.message = details
        trailing.add(DETAILS_KEY, status.SerializeToString())
    return grpc.aio.AioRpcError(
        error.code(), error.initial_metadata(), trailing, details, error.debug_error_string()
    )


class RetryPolicy:
    """Counts what was tried since the call last made progress.

    Backoff is exponential with jitter, on top of the delay a server asks for: calls that lost
    one server must not all come to the next at once.

    Args:
        seconds: without a stream, after which it gives up.
        clock: seconds, monotonic.
        jitter: in [0, 1).
    """

    def __init__(
        self,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._seconds = seconds
        self._clock = clock
        self._jitter = jitter
        self._began_at: float | None = None
        self._lost_at: float | None = None
        self.progressed()

    def progressed(self) -> None:
        """The call got further than it had been."""
        self._first: grpc.aio.AioRpcError | None = None
        self._tried = self._broken = self._failed = 0
        self._without = 0.0  # seconds

    def began(self) -> None:
        """A stream was accepted."""
        self._began_at = self._clock()
        if self._lost_at is not None:
            self._without += self._began_at - self._lost_at
        self._lost_at = None

    def delay(self, error: grpc.aio.AioRpcError) -> float:
        """Seconds to wait before the next attempt.

        Raises:
            AioRpcError: ``error`` itself if trying again is of no use; if it was tried in vain,
                the first error since the last progress, whose details say how often.
        """
        now = self._clock()
        began_at, self._began_at = self._began_at, None
        if began_at is not None and now - began_at > self._seconds:
            self.progressed()  # a long silence on the line is none of the server's faults
        if not may_pass(error, began=began_at is not None):
            raise error from self._first
        self._first = self._first or error
        self._lost_at = now if self._lost_at is None else self._lost_at
        own = error.code() in {Code.INTERNAL, Code.UNKNOWN}
        reset = "RST_STREAM" in (error.details() or "")
        self._broken += began_at is not None
        self._failed += own and not reset
        left = self._seconds - self._without - (now - self._lost_at)
        asked = retry_delay(error) or 0.0
        if self._broken > MAX_BROKEN or self._failed > MAX_FAILED or left <= 0 or asked > left:
            raise self._given_up(error, self._seconds - left) from error
        longest = min(MAX_BACKOFF, FIRST_BACKOFF * 2.0 ** min(self._tried, 30))
        self._tried += 1
        return min(left, asked + longest * (1 + self._jitter()) / 2)

    def _given_up(self, last: grpc.aio.AioRpcError, seconds: float) -> grpc.aio.AioRpcError:
        first = self._first or last
        times = f"{self._tried} time{'' if self._tried == 1 else 's'}"
        why = "" if first is last else f", the last with {last.code().name}: {last.details()}"
        return _with_details(
            first, f"{first.details()} (tried again {times} in {seconds:.1f} s{why})"
        )
