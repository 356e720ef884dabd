"""Overload and churn: what the benchmarks make of what they see."""

import argparse
import importlib
import os
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def module(monkeypatch):
    """Imports a benchmark by its name: they are no package."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


def seconds(*p99):
    return [{"second": second, "p99_ms": value} for second, value in enumerate(p99)]


@pytest.mark.parametrize(
    ("p99", "expected"),
    [
        ([9, 9, 900, 900, 9, 9], 0.0),
        ([9, 9, 900, 900, 80, 9], 1.0),
        ([9, 9, 900, 900, 9, 80, 9], 2.0),  # once is not for good
        ([9, 9, 900, 900, 9, 80], None),
        ([9, 9, 900, 900, None, 9], 1.0),  # no answer is not a fast one
    ],
)
def test_recovered_from_the_second_on_that_p99_stays_under_the_bound(module, p99, expected):
    assert module("overload").recovered(seconds(*p99), drop=4.0, bound_ms=50.0) == expected


def test_each_second_has_its_own_figures(module):
    seen = module("load.calls").Seen(
        due=[0.2, 0.9, 1.5],
        latency=[0.01, 0.01, 0.2],
        arrivals=[0.3, 1.0, 1.7, 2.5],
        refused_at=[1.1],
        lost_at=[2.2],
    )
    found = module("overload").per_second(seen, 3)
    assert [entry["predictions"] for entry in found] == [1, 2, 1]
    assert [entry["p99_ms"] for entry in found] == [10.0, 200.0, None]
    assert [entry["refused"] for entry in found] == [0, 1, 0]
    assert [entry["lost"] for entry in found] == [0, 0, 1]


def options(**more):
    fixed = {"chunk_ms": 100, "calls_per_connection": 5, "trunk_ms": 0.0, "seed": 1}
    return argparse.Namespace(**(fixed | more))


def test_half_of_the_calls_stay_and_all_are_accounted_for(module, server, tmp_path):
    wanted = options(capacity=4, seconds=5, after=2, bound_ms=1e6, generators=1)
    result = module("overload").offer(server.target, wanted, os.sched_getaffinity(0))
    assert (result["offered"], result["refused"], result["lost"]) == (6, 0, 0)
    assert result["recovered_seconds"] == 0.0
    assert len(result["per_second"]) == result["drop_second"] + 2
    rates = [entry["predictions"] for entry in result["per_second"]]
    alone, crowded = int(result["rise_second"]) - 1, int(result["drop_second"]) - 2
    assert rates[crowded] > rates[alone] > 0, "the additional calls come later"
    assert rates[crowded] > rates[-1] > 0, "and leave"
    picture = tmp_path / "overload.png"
    module("load.pictures").overload_picture({**result, "device": "this one"}, picture)
    assert picture.stat().st_size > 1000


@pytest.mark.parametrize("trunk_ms", [0.0, 5.0], ids=["streams", "trunks"])
def test_churn_counts_calls_and_what_the_server_holds(module, server, monkeypatch, trunk_ms):
    churn = module("churn")
    monkeypatch.setattr(churn, "SETTLE_SECONDS", 0.0)
    wanted = options(calls=40, trunk_ms=trunk_ms)
    result = churn.measure(server.target, server.process.pid, wanted)
    assert (result["lost"], result["errors"]) == (0, [])
    assert [sample["calls"] for sample in result["samples"]] == list(range(4, 41, 4))
    assert result["samples"][0]["rss_bytes"] > 10_000_000
    assert result["samples"][0]["file_descriptors"] > 3
    assert result["samples"][0]["threads"] > 1


def test_churn_reports_a_call_without_a_final_prediction(module, monkeypatch):
    churn = module("churn")
    monkeypatch.setattr(churn, "SETTLE_SECONDS", 0.0)
    result = churn.measure("127.0.0.1:1", os.getpid(), options(calls=10))
    assert result["lost"] == 10
    assert result["errors"][0].startswith("UNAVAILABLE")
