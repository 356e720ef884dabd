"""The state of a student's health, by a clock that the test turns."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.inference.health import FAILED_BATCHES, PROBE_SECONDS, Health


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def health(clock):
    return Health(clock)


def test_begins_healthy_and_needs_no_probe(health):
    assert health.healthy
    assert (health.reason, health.unhealthy_seconds, health.probe_due()) == ("", 0.0, False)


def test_only_whole_batches_in_a_row_count(health):
    for _ in range(20):
        health.stepped(32, 31)
        health.stepped(1, 1)
        health.stepped(2, 2)
    assert health.healthy
    health.stepped(5, 5)
    assert health.reason == "the last 3 batches failed"


def test_a_stuck_step_counts_at_once(health):
    health.failed("the step is stuck")
    assert not health.healthy
    assert health.reason == "the step is stuck"


def test_real_answers_do_not_heal_but_a_probe_does(health):
    health.failed("the step is stuck")
    health.stepped(10, 0)
    assert not health.healthy
    health.probed()
    assert health.healthy
    for _ in range(FAILED_BATCHES - 1):
        health.stepped(1, 1)
    assert health.healthy, "counted anew after the probe"


def test_probes_come_at_once_and_then_each_second(health, clock):
    health.failed("dead")
    assert health.probe_due()
    assert not health.probe_due()
    clock.now += PROBE_SECONDS * 0.99
    assert not health.probe_due()
    clock.now += PROBE_SECONDS * 0.02
    assert health.probe_due()
    health.probed()
    clock.now += 100
    assert not health.probe_due()


def test_illness_is_timed_from_its_beginning_whatever_comes_on_top(health, clock):
    health.failed("the step is stuck")
    clock.now += 40
    health.failed("the engine's thread is dead")
    clock.now += 2
    assert health.unhealthy_seconds == 42
    assert health.reason == "the engine's thread is dead"
    health.probed()
    assert health.unhealthy_seconds == 0
    health.failed("again")
    assert health.unhealthy_seconds == 0


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("stepped"), st.integers(1, 4), st.integers(0, 4)),
            st.tuples(st.just("failed")),
            st.tuples(st.just("probed")),
        ),
        max_size=40,
    )
)
def test_any_history_against_its_plain_telling(history):
    health, ill, row = Health(Clock()), False, 0
    for what, *numbers in history:
        if what == "stepped":
            blocks, failures = numbers[0], min(numbers)
            health.stepped(blocks, failures)
            row = row + 1 if failures == blocks else 0
            ill = ill or row >= FAILED_BATCHES
        elif what == "failed":
            health.failed("stuck")
            ill = True
        else:
            health.probed()
            ill, row = False, 0
        assert health.healthy is not ill
