"""Places of a server: how many, whose, and that each is given back."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.call.admission import Admission
from streamer.call.overload import Load
from streamer.errors import LimitExceeded, Overloaded
from streamer.security.identity import Caller
from streamer.settings import ServerSettings

BERLIN, OSLO = Caller("berlin"), Caller("oslo")


def refusal(admission, caller):
    with pytest.raises((LimitExceeded, Overloaded)) as caught, admission.acquire(caller):
        pass
    return caught.value


def test_one_caller_may_have_every_slot():
    admission = Admission(ServerSettings(max_calls=2), Load())
    with admission.acquire(BERLIN), admission.acquire(BERLIN):
        error = refusal(admission, OSLO)
        assert str(error) == "calls: 3 exceeds the limit of 2"
        assert (error.status, error.reason, error.retry_after) == (
            "RESOURCE_EXHAUSTED",
            "calls",
            1.0,
        )
        assert admission.held == {"berlin": 2}
    assert admission.held == {}


def test_share_of_a_caller_is_limited():
    admission = Admission(ServerSettings(max_calls=10, max_calls_per_identity=2), Load())
    with admission.acquire(BERLIN), admission.acquire(BERLIN):
        error = refusal(admission, BERLIN)
        assert str(error) == "calls of berlin: 3 exceeds the limit of 2"
        assert (error.reason, error.retry_after) == ("identity_calls", 1.0)
        with admission.acquire(OSLO):
            assert admission.held == {"berlin": 2, "oslo": 1}
    with admission.acquire(BERLIN):
        pass


@pytest.mark.parametrize("own", [1, 3])
def test_limit_of_a_token_precedes_the_setting(own):
    admission = Admission(ServerSettings(max_calls=10, max_calls_per_identity=2), Load())
    caller = Caller("berlin", max_calls=own)
    with contextlib.ExitStack() as places:
        for _ in range(own):
            places.enter_context(admission.acquire(caller))
        assert str(refusal(admission, caller)).endswith(f"exceeds the limit of {own}")


def test_full_server_refuses_every_caller():
    load = Load()
    admission = Admission(ServerSettings(), load)
    load.record(1.0, 0.5, 30.0, 0)
    error = refusal(admission, BERLIN)
    assert (error.reason, error.retry_after) == ("full", 2.0)
    assert admission.held == {}


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=30))
def test_slots_are_released(steps):
    """Calls of three callers begin and end in any order, some of them badly."""
    admission = Admission(ServerSettings(max_calls=5, max_calls_per_identity=3), Load())
    open_calls = []
    for name, fails in steps:
        place = admission.acquire(Caller(name))
        mine = sum(n == name for n, _ in open_calls)
        if len(open_calls) == 5 or mine == 3:
            with pytest.raises(LimitExceeded):
                place.__enter__()
            oldest, place = open_calls.pop(0)
            error = ValueError(oldest) if fails else None
            with contextlib.suppress(ValueError):
                place.__exit__(type(error) if error else None, error, None)
        else:
            place.__enter__()
            open_calls.append((name, place))
        assert admission.held == {
            n: count for n in "abc" if (count := sum(o == n for o, _ in open_calls))
        }
