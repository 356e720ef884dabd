"""The state of a student's health, by a clock that the test turns."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.inference.health import MAX_FAILED_BATCHES, PROBE_INTERVAL_SECONDS, Health


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
        health.record_batch(32, 31)
        health.record_batch(1, 1)
        health.record_batch(2, 2)
    assert health.healthy
    health.record_batch(5, 5)
    assert health.reason == "the last 3 batches failed"


def test_a_stuck_step_counts_at_once(health):
    health.mark_unhealthy("the step is stuck")
    assert not health.healthy
    assert health.reason == "the step is stuck"


def test_real_answers_do_not_heal_but_a_probe_does(health):
    health.mark_unhealthy("the step is stuck")
    health.record_batch(10, 0)
    assert not health.healthy
    health.mark_healthy()
    assert health.healthy
    for _ in range(MAX_FAILED_BATCHES - 1):
        health.record_batch(1, 1)
    assert health.healthy, "counted anew after the probe"


def test_probes_come_at_once_and_then_each_second(health, clock):
    health.mark_unhealthy("dead")
    assert health.probe_due()
    assert not health.probe_due()
    clock.now += PROBE_INTERVAL_SECONDS * 0.99
    assert not health.probe_due()
    clock.now += PROBE_INTERVAL_SECONDS * 0.02
    assert health.probe_due()
    health.mark_healthy()
    clock.now += 100
    assert not health.probe_due()


def test_illness_is_timed_from_its_beginning_whatever_comes_on_top(health, clock):
    health.mark_unhealthy("the step is stuck")
    clock.now += 40
    health.mark_unhealthy("the engine's thread is dead")
    clock.now += 2
    assert health.unhealthy_seconds == 42
    assert health.reason == "the engine's thread is dead"
    health.mark_healthy()
    assert health.unhealthy_seconds == 0
    health.mark_unhealthy("again")
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
            health.record_batch(blocks, failures)
            row = row + 1 if failures == blocks else 0
            ill = ill or row >= MAX_FAILED_BATCHES
        elif what == "failed":
            health.mark_unhealthy("stuck")
            ill = True
        else:
            health.mark_healthy()
            ill, row = False, 0
        assert health.healthy is not ill
