"""Live calls and files, told apart by how their audio comes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.pace import AHEAD_SECONDS, Pace


def play(pace, rate, *, start=0.0, before=0.0, seconds=5.0, chunk=0.1):
    """Send audio at so many seconds a second; what it was taken for at each message."""
    taken = []
    for number in range(1, round(seconds * rate / chunk) + 1):
        now = start + number * chunk / rate
        pace.heard(before + number * chunk)
        taken.append((now - start, pace.file(now)))
    return taken


@given(chunk=st.floats(0.02, 0.5), rate=st.floats(0.9, 1.1))
def test_a_live_call_is_never_a_file(chunk, rate):
    assert not any(file for _, file in play(Pace(0.0), rate, chunk=chunk))


@given(rate=st.floats(5.0, 200.0))
def test_a_file_is_one_within_half_a_second(rate):
    assert all(file for age, file in play(Pace(0.0), rate) if age > 0.5)


def test_a_short_file_is_one_as_soon_as_it_is_ahead():
    """Ten messages within a fifth of a second: many such calls fill a core, and can wait."""
    taken = play(Pace(0.0), 5.0, seconds=0.2)
    assert [file for _, file in taken] == [False] * 6 + [True] * 4


@given(late=st.floats(0.5, 5.0), burst=st.floats(0.001, 0.5))
def test_a_live_call_begun_late_is_live_when_it_has_been_heard_for_as_long(late, burst):
    """What it had said before comes at once; ahead it stays for good."""
    pace = Pace(0.0)
    pace.heard(late)
    for number in range(1, 200):
        now = burst + number * 0.1
        pace.heard(late + number * 0.1)
        assert pace.ahead(now) == (late - burst > AHEAD_SECONDS) or late - burst == pytest.approx(
            AHEAD_SECONDS
        )
        if now >= late:
            assert not pace.file(now)


def test_a_live_call_that_was_held_up_is_no_file_while_it_catches_up():
    pace = Pace(0.0)
    play(pace, 1.0, seconds=3.0)
    assert not any(file for _, file in play(pace, 10.0, start=6.0, before=3.0, seconds=0.3))


def test_a_call_that_goes_on_here_may_catch_up_with_the_time_it_had_no_server():
    """20 s heard elsewhere, then 3 s without one: 3 s come at once, the rest as it is spoken."""
    pace = Pace(100.0, age=23.0, sent=20.0)
    pace.heard(23.0)
    assert not pace.ahead(100.1)
    assert not any(file for _, file in play(pace, 1.0, start=100.1, before=23.0))


def test_a_file_that_goes_on_here_is_a_file():
    """What it sent elsewhere does not make it one, nor hides it."""
    pace = Pace(100.0, age=20.0, sent=20.0)
    assert not pace.file(100.0)
    assert all(file for age, file in play(pace, 20.0, start=100.0, before=20.0) if age > 0.1)
