"""The average of the server's delays, and what follows from it."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.call.overload import BUSY_SECONDS, FULL_SECONDS, CpuShare, Load

DELAYS = st.lists(st.floats(0, 10, allow_nan=False), min_size=1, max_size=50)


@given(DELAYS)
def test_average_stays_between_what_was_measured(delays):
    load = Load()
    for delay in delays:
        load.record(delay, 0.0, 0.1, 0)
    assert 0.0 <= load.delay <= max(delays) + 1e-9


@pytest.mark.parametrize(
    ("delay", "stretch", "full"), [(0.0, 1, False), (0.07, 2, False), (0.3, 4, True)]
)
def test_lasting_delay(delay, stretch, full):
    load = Load()
    load.record(0.2, 0.0, 0.1, 0)
    assert (load.interval_factor(), bool(load.full)) == (1, False), "one long turn is no overload"
    for _ in range(200):
        load.record(delay, 0.0, 0.1, 0)
    assert load.delay == pytest.approx(delay, rel=0.01)
    assert (load.interval_factor(), bool(load.full)) == (stretch, full)
    assert BUSY_SECONDS < FULL_SECONDS


def test_recovers_within_three_seconds():
    load = Load()
    for _ in range(100):
        load.record(1.0, 0.0, 0.1, 0)
    passed = 0.0
    while load.full:
        load.record(0.0, 0.0, 0.1, 0)
        passed += 0.1
    assert 1.0 < passed < 3.0


def test_measurement_is_weighted_by_its_time():
    at_once, bit_by_bit = Load(), Load()
    at_once.record(1.0, 0.5, 1.0, 0)
    for _ in range(10):
        bit_by_bit.record(1.0, 0.5, 0.1, 0)
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


def lasting(load, *, busy=1.0, calls, rate, ticks=200):
    """Record ticks of 0.1 s with so many calls and so many seconds of audio per second."""
    for _ in range(ticks):
        load.audio_seconds += rate * 0.1
        load.record(0.0, busy, 0.1, calls)


@pytest.mark.parametrize(
    ("calls", "rate", "demand"),
    [
        (400, 400, 1.0),  # all are live
        (600, 400, 1.0),  # and fall behind
        (400, 480, 1.0),  # and catch up
        (5, 200, 0.031),  # files
        (305, 500, 0.7625),  # both
        (0, 0, 1.0),  # no audio: calls may be opening
    ],
)
def test_demand_is_of_live_calls(calls, rate, demand):
    load = Load()
    lasting(load, calls=calls, rate=rate)
    assert load.demand == pytest.approx(demand, rel=0.01)
    assert bool(load.full) == (demand == 1.0)
    assert demand == 1.0 or load.interval_factor() == 1


def test_bursts_count_as_live_audio():
    """Nothing for a tenth of a second, then what was held up."""
    load = Load()
    for tick in range(200):
        load.audio_seconds += 40.0 * (0.3, 1.7)[tick % 2]
        load.record(0.0, 1.0, 0.1, 400)
        assert tick < 50 or load.full


@pytest.mark.parametrize(
    ("busy", "rate", "full", "stretch"),
    [
        (0.3, 400, False, 1),
        (0.45, 400, False, 1),
        (0.55, 400, False, 1),
        (0.88, 400, False, 1),
        (0.88, 200, False, 1),  # half of them suppress silence
        (0.92, 400, True, 1),
        (0.92, 200, True, 1),  # the rest is silence
        (1.0, 400, True, 1),
        (1.0, 380, True, 2),
        (1.0, 300, True, 4),
    ],
)
def test_cpu_share_of_live_calls(busy, rate, full, stretch):
    """No more calls first; then fewer predictions, if those let in fall behind."""
    load = Load()
    lasting(load, busy=busy, calls=400, rate=rate)
    assert (bool(load.full), load.interval_factor()) == (full, stretch)
    assert bool(load.busy) == (busy > 0.5)
