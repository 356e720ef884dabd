"""The average of the server's delays, and what follows from it."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.operation.load import BUSY_SECONDS, FULL_SECONDS, CpuShare, Load

DELAYS = st.lists(st.floats(0, 10, allow_nan=False), min_size=1, max_size=50)


@given(DELAYS)
def test_average_stays_between_what_was_measured(delays):
    load = Load()
    for delay in delays:
        load.measured(delay, 0.0, 0.1)
    assert 0.0 <= load.delay <= max(delays) + 1e-9


def test_one_long_turn_is_no_overload():
    load = Load()
    load.measured(0.2, 0.0, 0.1)
    assert not load.full
    assert load.stretch == 1


@pytest.mark.parametrize(
    ("delay", "stretch", "full"), [(0.0, 1, False), (0.07, 2, False), (0.3, 4, True)]
)
def test_lasting_delay(delay, stretch, full):
    load = Load()
    for _ in range(100):
        load.measured(delay, 0.0, 0.1)
    assert load.delay == pytest.approx(delay, rel=0.01)
    assert (load.stretch, bool(load.full)) == (stretch, full)
    assert BUSY_SECONDS < FULL_SECONDS


def test_recovers_within_three_seconds():
    load = Load()
    for _ in range(100):
        load.measured(1.0, 0.0, 0.1)
    passed = 0.0
    while load.full:
        load.measured(0.0, 0.0, 0.1)
        passed += 0.1
    assert 1.0 < passed < 3.0


def test_a_measurement_weighs_as_much_as_the_time_that_it_covers():
    at_once, bit_by_bit = Load(), Load()
    at_once.measured(1.0, 0.5, 1.0)
    for _ in range(10):
        bit_by_bit.measured(1.0, 0.5, 0.1)
    assert at_once.delay == pytest.approx(bit_by_bit.delay)
    assert at_once.demand == pytest.approx(bit_by_bit.demand)


def test_share_of_the_cpu():
    share = CpuShare()
    end = time.thread_time() + 0.1
    while time.thread_time() < end:
        pass
    busy = share.since_last()
    time.sleep(0.2)
    idle = share.since_last()
    assert 0.0 <= idle < busy <= 1.0


def test_share_of_one_worker_among_several(monkeypatch):
    """Two threads at half a core each fill a worker whose part of the cores is one."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(4)))
    readings = iter([(0.0, 0.0, 0.0), (1.0, 0.5, 1.0)] * 2)
    monkeypatch.setattr(CpuShare, "_read", lambda _: next(readings))
    assert CpuShare(workers=4).since_last() == pytest.approx(1.0)
    assert CpuShare(workers=1).since_last() == pytest.approx(0.5)


@pytest.mark.parametrize(("file", "demand"), [(0.0, 1.0), (1.0, 0.5), (9.0, 0.1)])
def test_demand_is_the_share_of_live_audio(file, demand):
    load = Load()
    for _ in range(20):
        load.heard(1.0, live=True)
        load.heard(file, live=False)
        load.measured(0.0, 1.0, 1.0)
    assert load.demand == pytest.approx(demand)
    assert bool(load.full) == (demand == 1.0)


@pytest.mark.parametrize(
    ("busy", "full", "stretch"), [(0.9, False, 1), (0.96, True, 1), (0.98, True, 2), (1.0, True, 4)]
)
def test_a_core_that_is_taken_by_live_calls(busy, full, stretch):
    """No more calls first; then fewer predictions, so that those let in together keep up."""
    load = Load()
    for _ in range(20):
        load.heard(10.0, live=True)
        load.measured(0.0, busy, 1.0)
    assert (bool(load.full), load.stretch) == (full, stretch)


def test_files_that_take_the_core_make_no_prediction_wait():
    load = Load()
    for _ in range(20):
        load.heard(10.0, live=False)
        load.measured(0.0, 1.0, 1.0)
    assert (load.full, load.stretch) == ("", 1)
