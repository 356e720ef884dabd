"""The search for the capacity, and the split of the cost. No figure is judged here."""

import argparse
import importlib
import os
import time
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def module(monkeypatch):
    """Imports a benchmark by its name: they are no package."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


@pytest.mark.parametrize("capacity", [1, 7, 49, 50, 51, 330, 999, 1000])
def test_the_search_ends_within_5_percent_below_the_capacity(module, capacity):
    tried = []

    def holds(calls):
        tried.append(calls)
        return calls <= capacity

    found = module("throughput").search(holds, start=50, most=1000)
    assert found <= capacity
    assert found * 1.05 + 1 > capacity
    twice = {number for number in tried if tried.count(number) > 1}
    ends = {min(number for number in tried if number > capacity)} if capacity < 1000 else set()
    assert twice == ends, "no step is measured twice but the one that ends the search"
    assert len(tried) < 17


@pytest.mark.parametrize("slow", [1, 2, 3, 4])
def test_slow_minutes_do_not_end_the_search(module, slow):
    """The host holds half as many in its first steps, or in some later ones."""
    tried = []

    def holds(calls):
        tried.append(calls)
        return calls <= (300 if len(tried) in range(slow, slow + 2) else 600)

    found = module("throughput").search(holds, start=560, most=20_000)
    assert 600 / 1.05 - 1 < found <= 600
    assert len(tried) < 20


def test_nothing_holds(module):
    assert module("throughput").search(lambda calls: calls < 1, start=8, most=1000) == 0


def test_no_more_than_the_most_is_tried(module):
    tried = []
    assert module("throughput").search(lambda calls: not tried.append(calls), 600, 1000) == 1000
    assert tried == [600, 1000]


class FakeBench:
    """Gives runs back as they were written down."""

    def __init__(self, module, *runs):
        self._run = module("load.processes")
        self._observations = module("load.generator").Observations
        self._left = list(runs)

    def plain(self, calls, title):  # noqa: ARG002
        observed = self._observations(finals=calls, latency=[0.01] * 100, lateness=[0.0])
        for name, value in self._left.pop(0).items():
            setattr(observed, name, value)
        return self._run.Outcome(observed, calls, 1.0, 100, {"foreign": 0.02, "cpu": 0.001 * calls})


@pytest.mark.parametrize(
    ("run", "held"),
    [
        ({}, True),
        ({"latency": [0.01] * 98 + [0.06] * 2}, False),
        ({"finals": 9, "errors": ["INTERNAL: x"]}, False),
        ({"finals": 9, "refused_at": [0.5]}, False),
        ({"latency": []}, False),
    ],
)
def test_a_step_holds_if_p99_is_in_time_and_no_call_lost_or_refused(module, run, held):
    capacity = module("throughput").Capacity(FakeBench(module, run), bound_ms=50.0)
    assert capacity.holds(10) is held
    assert [step["held"] for step in capacity.steps] == [held]
    assert not capacity.generator_limited


def test_a_step_that_does_not_hold_has_no_second_attempt(module):
    slow = {"latency": [0.2] * 100}
    capacity = module("throughput").Capacity(FakeBench(module, slow, {}), bound_ms=50.0)
    assert not capacity.holds(10)
    assert [step["held"] for step in capacity.steps] == [False]


def test_a_step_whose_generator_was_late_is_repeated_and_marked(module):
    late = {"latency": [0.2] * 100, "lateness": [0.1]}
    capacity = module("throughput").Capacity(FakeBench(module, late, {}), bound_ms=50.0)
    assert capacity.holds(10)
    capacity = module("throughput").Capacity(FakeBench(module, late, late, late), bound_ms=50.0)
    assert not capacity.holds(10)
    assert capacity.generator_limited


def test_what_failed_in_slow_minutes_and_held_later_did_not_end_the_search(module):
    late = {"latency": [0.2] * 100, "lateness": [0.1]}
    runs = [late, late, late, {}, {"latency": [0.2] * 100}]
    capacity = module("throughput").Capacity(FakeBench(module, *runs), bound_ms=50.0)
    assert [capacity.holds(calls) for calls in (10, 10, 12)] == [False, True, False]
    assert not capacity.generator_limited


def test_every_point_of_a_curve_is_measured_once_a_round(module):
    points = module("throughput").curve_points(400)
    assert [value for name, value, _ in points if name == "calls"] == [25, 50, 100, 200, 400]
    assert {load["calls"] for name, _, load in points if name == "chunk_ms"} == {100}
    assert all(load["calls"] == 100 * n for name, n, load in points if name == "workers")
    calls = [value for name, value, _ in module("throughput").curve_points(300) if name == "calls"]
    assert calls[-2:] == [200, 300]


def test_a_point_has_the_median_and_range_of_its_rounds(module):
    runs = [
        {"server_cpu_ms_per_call_s": cost, "p99_ms": p99, "lost": 1}
        for cost, p99 in ((3.0, 10.0), (2.0, None), (9.0, 30.0))
    ]
    assert module("throughput").summary(runs) == {
        "cpu_ms_per_call_s": 3.0,
        "cpu_ms_per_call_s_range": [2.0, 9.0],
        "p99_ms": 20.0,
        "lost": 3,
    }


COUNTED = {
    "total": 1.02,
    "counting": 0.02,
    "decode_vad": 0.2,
    "decisions": 0.05,
    "model": 0.3,
    "engine": 0.34,
    "results": 0.01,
    "messages": 1000,
    "predictions": 200,
    "steps": 30,
}


def test_the_parts_of_the_cost_add_up_to_the_total(module):
    found = module("load.cpu_breakdown").breakdown(COUNTED, call_seconds=100.0)
    assert found["total"] == 10.0
    assert found["batching"] == pytest.approx(0.5)
    assert found["transport"] == pytest.approx(4.0)
    assert sum(found[part] for part in module("load.cpu_breakdown").PARTS) == pytest.approx(10.0)


def test_a_part_that_is_never_counted_is_an_error_not_a_zero(module):
    with pytest.raises(ValueError, match="steps counted: 0"):
        module("load.cpu_breakdown").breakdown({**COUNTED, "steps": 0}, call_seconds=100.0)


def test_the_counted_server_counts_what_real_calls_cost(module):
    """On a trunk: what is counted is the same on streams."""
    options = argparse.Namespace(
        provider="cpu",
        model=None,
        server_flags="",
        seconds=2,
        chunk_ms=100,
        calls_per_connection=50,
        seed=1,
    )
    with module("load.processes").Generators(1) as generators:
        bench = module("throughput").Bench(options, generators, trunk_ms=10.0)
        outcome, cost = bench.counted(5, title="")
    assert (outcome.lost, outcome.observed.refused) == (0, 0)
    assert 1.0 < outcome.figures()["host_speed"] < 1000.0
    assert outcome.metered["messages"] == pytest.approx(5 * 2 * 10, rel=0.3)
    assert outcome.metered["blocks"] >= outcome.metered["steps"] > 0
    parts = module("load.cpu_breakdown").PARTS
    assert all(cost[part] > 0 for part in parts)
    assert sum(cost[part] for part in parts) == pytest.approx(cost["total"], rel=0.01)


class RoundsBench(FakeBench):
    """Rounds of a server that becomes dearer, and of an empty servicer that does not."""

    def __init__(self, module, order):
        super().__init__(module, *[{"latency": [0.01 * n] * 9} for n in (1, 3, 2)])
        self.order, self.split = order, module("load.cpu_breakdown").breakdown

    def plain(self, calls, title):
        self.order.append("plain")
        return super().plain(calls, title)

    def counted(self, calls, title):  # noqa: ARG002
        self.order.append("counted")
        more = self.order.count("counted") / 10
        outcome = self._run.Outcome(
            self._observations(), calls, 1.0, 100, {"blocks": 60, "steps": 10}
        )
        return outcome, self.split({**COUNTED, "total": COUNTED["total"] + more}, 100.0)

    def empty(self, calls, experiments=""):  # noqa: ARG002
        self.order.append("empty")
        return 2.0


def test_the_split_and_its_floor_are_measured_in_turns(module):
    order = []
    bench, throughput = RoundsBench(module, order), module("throughput")
    rounds = [throughput.cost_round(bench, 10, number) for number in (1, 2, 3)]
    assert order == ["plain", "counted", "empty"] * 3
    assert [one["transport_over_empty"] for one in rounds] == [2.5, 3.0, 3.5]
    assert [one["p99_ms"] for one in rounds] == [10.0, 30.0, 20.0]
    assert [one["mean_batch"] for one in rounds] == [6.0] * 3
    assert [len(one["host_speed"]) for one in rounds] == [2] * 3
    found = throughput.mean([one["cpu_ms_per_call_s"] for one in rounds])
    assert (found["total"], found["transport"], found["empty_servicer"]) == (12.0, 6.0, 2.0)
    assert sum(found[part] for part in module("load.cpu_breakdown").PARTS) == pytest.approx(12.0)


def test_the_plot_shows_streams_and_trunks_if_both_were_measured(module, tmp_path):
    parts = dict.fromkeys(module("load.cpu_breakdown").PARTS, 0.4)
    way = {
        "max_calls": 20,
        "cpu_ms_per_call_s": {**parts, "total": 2.0, "empty_servicer": 1.0},
        "steps": [{"calls": n, "p99_ms": 2.0 * n, "held": n < 25} for n in (10, 20, 30)],
    }
    alone = {**way, "bound_ms": 50.0, "chunk_ms": 100, "device": "x"}
    drawn = []
    for name, result in (("one", alone), ("both", {**alone, "trunks": {**way, "max_calls": 30}})):
        module("load.plots").plot_throughput(result, tmp_path / f"{name}.png")
        drawn.append((tmp_path / f"{name}.png").read_bytes())
    assert drawn[0] != drawn[1]


def test_cpu_of_other_processes_on_the_cores_of_the_server_is_separate(module):
    run = module("load.processes")
    every = set(range(os.cpu_count()))
    before = run.server_meter(os.getpid(), every)
    assert before.keys() == {"cpu", "foreign"}
    sum(range(2_000_000))
    assert run.server_meter(os.getpid(), every)["cpu"] > before["cpu"]
    outcome = run.Outcome(
        module("load.generator").Observations(), 1, 2.0, 100, {"cpu": 1.0, "foreign": 0.5}
    )
    assert outcome.figures()["foreign_cpu_share"] == 0.25


def test_calls_that_were_refused_make_the_others_no_cheaper(module):
    observed = module("load.generator").Observations(
        refused_at=[0.1] * 20, arrivals=[6.0] * 160, cpu_seconds=0.8
    )
    outcome = module("load.processes").Outcome(observed, 100, 2.0, 100, {"cpu": 1.6})
    assert outcome.per_call_second(outcome.metered["cpu"]) == 10.0
    figures = outcome.figures()
    assert (figures["generator_cpu_ms_per_call_s"], figures["predictions_per_call_s"]) == (5.0, 1.0)
    observed.refused_at *= 5
    assert outcome.per_call_second(1.0) == 500.0, "of none that ran it is of nobody, and no error"


def test_the_cpu_of_a_process_grows_as_it_works(module):
    cpu_seconds = module("load.processes").cpu_seconds
    before = cpu_seconds(os.getpid())
    sum(range(2_000_000))
    assert cpu_seconds(os.getpid()) > before


def test_what_counting_takes_is_measured(module):
    seconds = module("load.cpu_breakdown").counting_seconds()
    assert 1e-7 < seconds < 1e-4


def test_nothing_is_counted_twice(module):
    """What a counted function does within another is not the other's too."""
    counter = module("load.cpu_breakdown").Counter
    outer, idle = counter(), counter()
    inner = counter(idle, outer)

    def work(seconds):
        until = time.thread_time() + seconds
        while time.thread_time() < until:
            pass

    slow = inner.timed(work)

    def both():
        work(0.02)
        slow(0.05)

    outer.timed(both)()
    slow(0.01)  # not within: takes nothing from anybody
    assert (outer.calls, inner.calls) == (1, 2)
    assert 0.02 <= outer.seconds < 0.04
    assert 0.06 <= inner.seconds < 0.08
    assert idle.seconds == 0.0
