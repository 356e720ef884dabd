"""The health of a model, on a clock that only the test advances."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.inference.health import MAX_FAILED_BATCHES, PROBE_INTERVAL_SECONDS, Health


@pytest.fixture
def health(clock):
    return Health(clock)


def test_starts_healthy_without_a_probe(health):
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


def test_only_a_probe_makes_it_healthy(health):
    health.mark_unhealthy("the step is stuck")
    health.record_batch(10, 0)
    assert not health.healthy
    assert health.reason == "the step is stuck"
    health.mark_healthy()
    assert health.healthy
    for _ in range(MAX_FAILED_BATCHES - 1):
        health.record_batch(1, 1)
    assert health.healthy, "the count starts again after the probe"


def test_probes_are_due_at_once_and_then_each_second(health, clock):
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


def test_unhealthy_seconds_count_from_the_first_reason(health, clock):
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
            st.tuples(st.just("record_batch"), st.integers(1, 4), st.integers(0, 4)),
            st.tuples(st.just("mark_unhealthy")),
            st.tuples(st.just("mark_healthy")),
        ),
        max_size=40,
    )
)
def test_any_history_against_a_plain_model(history):
    health, unhealthy, failed_batches = Health(), False, 0
    for event, *numbers in history:
        if event == "record_batch":
            blocks, failures = numbers[0], min(numbers)
            health.record_batch(blocks, failures)
            failed_batches = failed_batches + 1 if failures == blocks else 0
            unhealthy = unhealthy or failed_batches >= MAX_FAILED_BATCHES
        elif event == "mark_unhealthy":
            health.mark_unhealthy("stuck")
            unhealthy = True
        else:
            health.mark_healthy()
            unhealthy, failed_batches = False, 0
        assert health.healthy is not unhealthy
