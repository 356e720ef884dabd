"""Which calls are open, which have ended, and for how long that is remembered."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.checkpoint import resumption as module
from streamer.checkpoint.resumption import ResumableCalls
from streamer.errors import FailedPrecondition, TakenOver


class Stream:
    def __init__(self):
        self.reasons = []

    def stop(self, reason):
        self.reasons.append(reason)


@pytest.fixture
def clock():
    return [100.0]


@pytest.fixture
def calls(clock):
    return ResumableCalls(330.0, lambda: clock[0])


def test_second_stream_takes_the_call_over(calls):
    first, second, third = Stream(), Stream(), Stream()
    calls.register(b"a", first)
    calls.register(b"b", third)
    calls.register(b"a", second)
    assert [type(reason) for reason in first.reasons] == [TakenOver]
    assert second.reasons == third.reasons == []
    calls.unregister(b"a", first, complete=False)  # only now is its stream gone
    calls.register(b"a", Stream())
    assert len(second.reasons) == 1


def test_complete_call_cannot_be_resumed(calls, clock):
    stream = Stream()
    calls.register(b"a", stream)
    calls.require_resumable(b"a")
    calls.unregister(b"a", stream, complete=True)
    clock[0] += 329.0
    with pytest.raises(FailedPrecondition, match=r"^config.resume_from: it is used up"):
        calls.require_resumable(b"a")
    calls.require_resumable(b"b")
    clock[0] += 2.0
    calls.require_resumable(b"a")
    assert len(calls) == 0


def test_broken_call_can_be_resumed(calls):
    stream = Stream()
    calls.register(b"a", stream)
    calls.unregister(b"a", stream, complete=False)
    calls.require_resumable(b"a")
    assert len(calls) == 0


def test_end_of_an_older_stream_changes_nothing(calls):
    first, second = Stream(), Stream()
    calls.register(b"a", first)
    calls.register(b"a", second)
    calls.unregister(b"a", first, complete=True)
    calls.require_resumable(b"a")
    calls.unregister(b"a", second, complete=True)
    with pytest.raises(FailedPrecondition):
        calls.require_resumable(b"a")


@given(gaps=st.lists(st.floats(0, 200), max_size=60))
def test_number_of_ended_calls_is_bounded(gaps):
    now = [0.0]
    calls = ResumableCalls(330.0, lambda: now[0])
    limit, module.MAX_ENDED = module.MAX_ENDED, 8
    try:
        ended = []
        for number, gap in enumerate(gaps):
            now[0] += gap
            key, stream = number.to_bytes(2), Stream()
            calls.register(key, stream)
            calls.unregister(key, stream, complete=True)
            ended.append((key, now[0]))
            assert len(calls) <= 8
        remembered = {key for key, at in ended[-8:] if at > now[0] - 330.0}
        for key, _ in ended:
            if key in remembered:
                with pytest.raises(FailedPrecondition):
                    calls.require_resumable(key)
            else:
                calls.require_resumable(key)
    finally:
        module.MAX_ENDED = limit
