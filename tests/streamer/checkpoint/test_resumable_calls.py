"""Which calls run, which are over, and for how long that is kept in mind."""

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
def ledger(clock):
    return ResumableCalls(330.0, lambda: clock[0])


def test_second_stream_takes_the_call_over(ledger):
    first, second, third = Stream(), Stream(), Stream()
    ledger.began(b"a", first)
    ledger.began(b"b", third)
    ledger.began(b"a", second)
    assert [type(reason) for reason in first.reasons] == [TakenOver]
    assert second.reasons == third.reasons == []
    ledger.ended(b"a", first, well=False)  # only now is its stream gone
    ledger.began(b"a", Stream())
    assert len(second.reasons) == 1


def test_call_that_ended_well_is_used_up_as_long_as_its_checkpoints_live(ledger, clock):
    stream = Stream()
    ledger.began(b"a", stream)
    ledger.require_resumable(b"a")
    ledger.ended(b"a", stream, well=True)
    clock[0] += 329.0
    with pytest.raises(FailedPrecondition, match=r"^config.resume_from: it is used up"):
        ledger.require_resumable(b"a")
    ledger.require_resumable(b"b")
    clock[0] += 2.0
    ledger.require_resumable(b"a")
    assert len(ledger) == 0


def test_call_that_broke_off_may_go_on(ledger):
    stream = Stream()
    ledger.began(b"a", stream)
    ledger.ended(b"a", stream, well=False)
    ledger.require_resumable(b"a")
    assert len(ledger) == 0


def test_end_of_a_stream_that_lost_its_call_uses_nothing_up(ledger):
    first, second = Stream(), Stream()
    ledger.began(b"a", first)
    ledger.began(b"a", second)
    ledger.ended(b"a", first, well=True)
    ledger.require_resumable(b"a")
    ledger.ended(b"a", second, well=True)
    with pytest.raises(FailedPrecondition):
        ledger.require_resumable(b"a")


@given(gaps=st.lists(st.floats(0, 200), max_size=60))
def test_it_stays_small_and_forgets_the_oldest_first(gaps):
    now = [0.0]
    ledger = ResumableCalls(330.0, lambda: now[0])
    most, module.MOST_ENDED = module.MOST_ENDED, 8
    try:
        ended = []
        for number, gap in enumerate(gaps):
            now[0] += gap
            key, stream = number.to_bytes(2), Stream()
            ledger.began(key, stream)
            ledger.ended(key, stream, well=True)
            ended.append((key, now[0]))
            assert len(ledger) <= 8
        wanted = {key for key, at in ended[-8:] if at > now[0] - 330.0}
        for key, _ in ended:
            if key in wanted:
                with pytest.raises(FailedPrecondition):
                    ledger.require_resumable(key)
            else:
                ledger.require_resumable(key)
    finally:
        module.MOST_ENDED = most
