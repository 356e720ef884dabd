"""Retry policy of resumable calls: backoff, and limits of attempts and time."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from grpc_status import rpc_status

Code = grpc.StatusCode

MIN_BACKOFF_SECONDS = 0.2
MAX_BACKOFF_SECONDS = 5.0
"""Bounds of the backoff, which doubles at each attempt."""
MAX_BROKEN = 5
"""Started streams that broke without progress: audio that crashes a server must not crash all."""
MAX_FAILED = 2
"""Attempts without progress after a server error, such as failed inference."""
DETAILS_KEY = "grpc-status-details-bin"


def retry_delay(error: grpc.aio.AioRpcError) -> float | None:
    """Return the server's retry delay in seconds (google.rpc.RetryInfo); None without one."""
    try:
        status = rpc_status.from_call(error)
    except ValueError:
        return None  # a proxy changed the status
    info = error_details_pb2.RetryInfo()
    for detail in status.details if status else ():
        if detail.Unpack(info):
            delay: Duration = info.retry_delay
            return max(0.0, delay.ToNanoseconds() / 1e9)
    return None


def is_retryable(error: grpc.aio.AioRpcError, *, started: bool) -> bool:
    """Return whether a new stream may succeed: the connection or server failed, or was full.

    A proxy that loses its server resets the stream with INTERNAL, UNKNOWN, CANCELLED or
    UNAVAILABLE. RESOURCE_EXHAUSTED without a delay on a running call is an error of the caller,
    such as a message that is too long.
    """
    if error.code() is Code.RESOURCE_EXHAUSTED:
        return not started or retry_delay(error) is not None
    return error.code() in {Code.UNAVAILABLE, Code.INTERNAL, Code.UNKNOWN, Code.CANCELLED}


def _with_details(error: grpc.aio.AioRpcError, details: str) -> grpc.aio.AioRpcError:
    """Return the error with other details, in google.rpc.Status as well."""
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
    """Counts attempts since the call last made progress.

    Backoff is exponential with jitter and is added to the server's retry delay, so that the calls
    of a failed server do not reach the next one at the same time.

    Args:
        seconds: maximum time without a stream.
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
        self._started_at: float | None = None
        self._lost_at: float | None = None
        self.record_progress()

    def record_progress(self) -> None:
        """Reset all counts: the call made progress."""
        self._first: grpc.aio.AioRpcError | None = None
        self._tried = self._broken = self._failed = 0
        self._seconds_without_stream = 0.0

    def record_start(self) -> None:
        """Record that a stream was accepted."""
        self._started_at = self._clock()
        if self._lost_at is not None:
            self._seconds_without_stream += self._started_at - self._lost_at
        self._lost_at = None

    def next_delay(self, error: grpc.aio.AioRpcError) -> float:
        """Return the seconds to wait before the next attempt.

        Raises:
            AioRpcError: ``error`` if it is not retryable; after the last attempt, the first error
                since the last progress, with the number of attempts in its details.
        """
        now = self._clock()
        started_at, self._started_at = self._started_at, None
        if started_at is not None and now - started_at > self._seconds:
            self.record_progress()  # the stream was stable
        if not is_retryable(error, started=started_at is not None):
            raise error from self._first
        self._first = self._first or error
        self._lost_at = now if self._lost_at is None else self._lost_at
        server_error = error.code() in {Code.INTERNAL, Code.UNKNOWN}
        reset = "RST_STREAM" in (error.details() or "")
        self._broken += started_at is not None
        self._failed += server_error and not reset
        remaining = self._seconds - self._seconds_without_stream - (now - self._lost_at)
        server_delay = retry_delay(error) or 0.0
        exhausted = self._broken > MAX_BROKEN or self._failed > MAX_FAILED
        if exhausted or remaining <= 0 or server_delay > remaining:
            raise self._final_error(error, self._seconds - remaining) from error
        max_delay = min(MAX_BACKOFF_SECONDS, MIN_BACKOFF_SECONDS * 2.0 ** min(self._tried, 30))
        self._tried += 1
        return min(remaining, server_delay + max_delay * (1 + self._jitter()) / 2)

    def _final_error(self, last: grpc.aio.AioRpcError, seconds: float) -> grpc.aio.AioRpcError:
        first = self._first or last
        times = f"{self._tried} time{'' if self._tried == 1 else 's'}"
        suffix = "" if first is last else f", the last with {last.code().name}: {last.details()}"
        return _with_details(
            first, f"{first.details()} (tried again {times} in {seconds:.1f} s{suffix})"
        )
