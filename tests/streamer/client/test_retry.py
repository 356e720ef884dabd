"""Retries and their limits, on a simulated clock."""

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2

from streamer.client.retry import (
    MAX_BACKOFF_SECONDS,
    MAX_BROKEN,
    MAX_FAILED,
    MIN_BACKOFF_SECONDS,
    RetryPolicy,
    is_retryable,
    retry_delay,
)
from streamer.transport.converters import duration

Code = grpc.StatusCode


@pytest.fixture
def error_of(scripted):
    """Make an error, with google.rpc.RetryInfo if ``retry`` gives seconds."""

    def make(code=Code.UNAVAILABLE, details="gone", retry=None):
        trailing = [("x-kept", "yes")]
        if retry is not None:
            info = AnyMessage()
            info.Pack(error_details_pb2.RetryInfo(retry_delay=duration(retry)))
            status = status_pb2.Status(code=code.value[0], message=details, details=[info])
            trailing.append(("grpc-status-details-bin", status.SerializeToString()))
        return scripted.error_of(code, details, trailing)

    return make


class Clock:
    """RetryPolicy on a clock that only the test moves."""

    def __init__(self, seconds=60.0, jitter=0.0):
        self.now = 1000.0
        self.policy = RetryPolicy(seconds, lambda: self.now, lambda: jitter)

    def fail(self, error, *, began=False, lasted=0.0):
        """One attempt that fails; waits for the given delay."""
        if began:
            self.policy.record_start()
            self.now += lasted
        delay = self.policy.next_delay(error)
        self.now += delay
        return delay

    def exhaust(self, error, **how):
        """Fail until it gives up; how often that was, and the error."""
        for count in range(1000):
            try:
                self.fail(error, **how)
            except grpc.aio.AioRpcError as raised:
                return count, raised
        raise AssertionError("it never gives up")


@pytest.mark.parametrize("jitter", [0.0, 0.999])
def test_backoff_doubles_up_to_a_limit(error_of, jitter):
    clock = Clock(seconds=1e6, jitter=jitter)
    delays = [clock.fail(error_of()) for _ in range(40)]
    share = (1 + jitter) / 2
    assert delays[:4] == pytest.approx([MIN_BACKOFF_SECONDS * 2**n * share for n in range(4)])
    assert delays[-1] == pytest.approx(MAX_BACKOFF_SECONDS * share)


def test_jitter_spreads_calls(error_of):
    """Fifty calls that lost one server."""
    delays = {RetryPolicy(60.0).next_delay(error_of()) for _ in range(50)}
    assert len(delays) > 40
    assert min(delays) >= MIN_BACKOFF_SECONDS / 2
    assert max(delays) <= MIN_BACKOFF_SECONDS


def test_a_servers_delay_is_honoured(error_of):
    assert retry_delay(error_of(retry=2.5)) == 2.5
    assert retry_delay(error_of()) is None
    assert retry_delay(error_of(retry=-3)) == 0.0
    for code in (Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED):
        assert 2.5 < Clock(jitter=0.5).fail(error_of(code, retry=2.5)) < 2.5 + MIN_BACKOFF_SECONDS


def test_retry_delay_with_a_changed_code(error_of):
    refusal = error_of(Code.RESOURCE_EXHAUSTED, retry=2.5)
    changed = grpc.aio.AioRpcError(
        Code.UNAVAILABLE, grpc.aio.Metadata(), refusal.trailing_metadata(), "upstream"
    )
    assert retry_delay(changed) is None


def test_retries_stop_in_time(error_of):
    clock = Clock(seconds=60.0)
    count, raised = clock.exhaust(error_of(retry=0))
    assert clock.now == pytest.approx(1060.0)
    assert 15 < count < 40
    assert raised.code() is Code.UNAVAILABLE
    assert raised.details() == f"gone (tried again {count} times in 60.0 s)"
    # gRPC's own reader of the status must still find it consistent
    assert retry_delay(raised) == 0.0
    assert ("x-kept", "yes") in list(raised.trailing_metadata())


def test_a_delay_beyond_the_limit_is_not_awaited(error_of):
    count, raised = Clock(seconds=10.0).exhaust(error_of(retry=11))
    assert count == 0
    assert raised.details() == "gone (tried again 0 times in 0.0 s)"


def test_first_error_is_raised_not_the_last(error_of):
    clock = Clock(seconds=1.0)
    clock.fail(error_of(Code.CANCELLED, "first"), began=True)
    _, raised = clock.exhaust(error_of(Code.RESOURCE_EXHAUSTED, "full"))
    assert raised.code() is Code.CANCELLED
    assert raised.details().startswith("first (tried again ")
    assert raised.details().endswith(" s, the last with RESOURCE_EXHAUSTED: full)")
    assert raised.__cause__.code() is Code.RESOURCE_EXHAUSTED


def test_zero_seconds_allow_no_retry(error_of):
    assert Clock(seconds=0.0).exhaust(error_of())[0] == 0


def test_time_with_a_stream_does_not_count(error_of):
    """Twice 40 s of outage with a working stream in between are too long; progress forgives."""
    for progress, expected in ((False, False), (True, True)):
        clock = Clock(seconds=60.0)
        for _ in range(2):
            started = clock.now
            clock.fail(error_of())
            clock.now = started + 40.0
            clock.policy.record_start()
            if progress:
                clock.policy.record_progress()
            clock.now += 30.0
        try:
            clock.policy.next_delay(error_of())
            survived = True
        except grpc.aio.AioRpcError:
            survived = False
        assert survived is expected


@pytest.mark.parametrize(
    ("code", "details", "most"),
    [
        (Code.UNAVAILABLE, "Socket closed", MAX_BROKEN),
        (Code.CANCELLED, "Received RST_STREAM with error code 8", MAX_BROKEN),
        (Code.INTERNAL, "Received RST_STREAM with error code 2", MAX_BROKEN),
        (Code.INTERNAL, "the student failed on this call: nan", MAX_FAILED),
        (Code.UNKNOWN, "Unexpected <class 'KeyError'>", MAX_FAILED),
    ],
)
def test_broken_streams_are_limited(error_of, code, details, most):
    clock = Clock(seconds=1e6)
    count, raised = clock.exhaust(error_of(code, details), began=True)
    assert count == most
    assert raised.details().startswith(f"{details} (tried again {most} times in ")


def test_progress_resets_the_counts(error_of):
    clock = Clock(seconds=1e6)
    for _ in range(10 * MAX_BROKEN):
        assert clock.fail(error_of(), began=True) == MIN_BACKOFF_SECONDS / 2
        clock.policy.record_progress()


def test_a_stable_stream_resets_the_counts(error_of):
    """A call on hold brings no progress: servers may come and go meanwhile."""
    clock = Clock(seconds=60.0)
    for _ in range(10 * MAX_BROKEN):
        clock.fail(error_of(), began=True, lasted=61.0)


@pytest.mark.parametrize("began", [False, True])
def test_retryable_codes(error_of, began):
    passing = {code for code in Code if is_retryable(error_of(code), started=began)}
    broken = {Code.UNAVAILABLE, Code.INTERNAL, Code.UNKNOWN, Code.CANCELLED}
    assert passing == (broken if began else broken | {Code.RESOURCE_EXHAUSTED})
    assert is_retryable(error_of(Code.RESOURCE_EXHAUSTED, retry=1), started=began)


def test_other_errors_are_raised_unchanged(error_of):
    clock = Clock()
    first, last = error_of(), error_of(Code.INVALID_ARGUMENT)
    clock.fail(first)
    _, raised = clock.exhaust(last)
    assert raised is last
    assert raised.__cause__ is first
