"""Every scenario of soak.py runs briefly; arithmetic of growth, latency and recovery."""

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))  # import each other by name

import soak
from load.generator import Observations
from load.plots import plot_overload
from soaking import ageing, phases
from soaking.callers import KINDS, Tally
from soaking.checks import Phase, failures, growth, latency_by_phase, result_of
from soaking.connection import difference

from streamer.inference.model import OnnxModel
from streamer.rpc import voicecohort_pb2 as pb

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PHASES = [Phase("quiet", 0, 100), Phase("mixed", 100, 900), Phase("quiet_again", 900, 1000)]


@pytest.mark.timeout(120)
def test_good_calls_are_right_beside_all_others_and_nothing_stays_open(tmp_path):
    out, picture = tmp_path / "soak.json", tmp_path / "soak.png"
    command = [sys.executable, str(BENCHMARKS / "soak.py"), "--minutes", "0.17", "--quiet", "2.5"]
    command += ["--calls", "6", "--call-seconds", "2", "--warm-up", "0", "--json", str(out)]
    # The exit code judges latency too, which a busy machine spoils.
    done = subprocess.run(
        [*command, "--picture", str(picture)], capture_output=True, text=True, check=False
    )
    assert out.exists(), done.stderr
    result = json.loads(out.read_text())
    normal = result["normal"]
    assert (normal["wrong"], normal["lost"], normal["errors"]) == (0, 0, []), result["failures"]
    assert normal["right"] + normal["refused"] == normal["calls"] > 0
    assert normal["right"] > 0
    assert result["unexpected"] == []
    assert set(result["callers"]) == set(KINDS)
    assert sum(result["callers"]["malformed"].values()) > 0
    assert sum(result["callers"]["cut off"].values()) > 0
    before, after = result["idle"]["before"], result["idle"]["after"]
    for name in ("file_descriptors", "threads"):
        assert after[name] <= before[name], name
    for names in result["idle"]["threads"].values():
        assert names["event_engine"] > 0
    assert max(s["file_descriptors"] for s in result["samples"]) > before["file_descriptors"]
    assert max(s["calls_open"] for s in result["samples"]) >= 3
    assert result["samples"][-1]["calls_open"] == 0
    assert any(key.startswith("OK") for key in result["calls_by_status"])
    assert picture.stat().st_size > 1000


# --- growth ---


def series(slope, noise, count=1000):
    """Values of each second: MB that grow by ``slope`` an hour."""
    at = np.arange(count)
    return at, 150 + slope * at / 3600 + np.random.default_rng(1).normal(0, noise, count)


@pytest.mark.parametrize(
    ("slope", "noise", "flat"),
    [(0, 1.0, True), (-50, 1.0, True), (3, 0.1, True), (40, 1.0, False), (0, 60.0, None)],
)
def test_growth_is_significant_or_undecided(slope, noise, flat):
    grown = growth(*series(slope, noise), "rss_mb")
    assert grown["flat"] is flat
    assert grown["per_hour"] == pytest.approx(slope, abs=4 * grown["error"])


def test_a_few_samples_leave_growth_undecided():
    assert growth([0, 1, 2], [1, 2, 3], "rss_mb")["flat"] is None


# --- latency and answers ---


def test_mixed_latency_is_compared_with_both_quiet_phases():
    due = np.arange(1000.0)
    latency = np.where((due >= 100) & (due < 900), 0.030, 0.020)
    result = latency_by_phase(due.tolist(), latency.tolist(), PHASES)
    assert result["p99_mixed_over_quiet"] == 1.5
    assert result["quiet_together"]["predictions"] == 200
    assert (result["quiet"]["p99_ms"], result["mixed"]["p99_ms"]) == (20, 30)


def final(male=0.7, label="male", seconds=3):
    prediction = pb.Prediction(final=True)
    prediction.speech_time.FromSeconds(seconds)
    for task in (prediction.gender, prediction.age_group, prediction.age_band):
        task.posterior.extend([1 - male, male])
        task.label = label
    return prediction


@pytest.mark.parametrize(
    ("got", "what"),
    [
        (final(), ""),
        (final(male=0.7 + 1e-7), ""),
        (final(male=0.7002), "gender is off by 0.0002"),
        (final(male=float("nan")), "gender is off by nan"),
        (final(label=""), "gender undecided instead of male"),
        (final(seconds=4), "speech_time 4.000 s instead of 3.000 s"),
    ],
)
def test_another_answer_is_wrong(got, what):
    assert difference(got, final()) == what


def outcome(observed=None, calls=1, wrong=(), tally=None):
    class Options:
        minutes, quiet = 1000 / 60, 100

    at, rss = series(0, 0.1)
    samples = [
        {"at": float(t), "rss_mb": mb, "file_descriptors": 20, "cpu": 0.1}
        for t, mb in zip(at, rss, strict=True)
    ]
    tally = tally or Tally({name: {} for name in KINDS})
    observed = observed or Observations(finals=1, due=[50.0, 500.0], latency=[0.01, 0.015])
    idle = {"file_descriptors": 20, "threads": 10}
    names = {"python": 5, "event_engine": 5}
    result = result_of(Options, PHASES, observed, calls, list(wrong), tally, samples)
    threads = {"before": names, "after": dict(names)}
    return result | {"idle": {"before": idle, "after": dict(idle), "threads": threads}}


def test_each_failure_has_a_line():
    assert failures(outcome()) == []
    assert "1 normal calls wrong" in failures(outcome(wrong=["recording 3"]))[0]
    assert "1 normal calls lost" in failures(outcome(calls=2))[0]
    refused = Observations(finals=1, refused_at=[5.0])
    assert "1 normal calls refused" in failures(outcome(refused, calls=2))[0]
    slow = Observations(finals=1, due=[50.0, 500.0], latency=[0.01, 0.021])
    assert "p99 is 2.1 times" in failures(outcome(slow))[0]
    bad = Tally({name: {} for name in KINDS}, unexpected=["idle: OK"], refused_good=2)
    lines = failures(outcome(tally=bad))
    assert lines == ["2 correct calls refused", "unexpected ends: ['idle: OK']"]
    leaky = outcome()
    leaky["idle"]["after"]["file_descriptors"] += 1
    assert failures(leaky) == ["file_descriptors: 20 before, 21 after"]
    threads = outcome()
    threads["idle"]["after"]["threads"] += 1
    threads["idle"]["threads"]["after"]["event_engine"] += 1
    whose = "event_engine 5 before, 6 after"
    assert failures(threads) == [f"threads: 10 before, 11 after ({whose})"]


# --- churn, overload, the cost of an old call ---


def options(**more):
    fixed = {"chunk_ms": 100, "calls_per_connection": 5, "trunk_ms": 0.0, "seed": 1}
    return argparse.Namespace(**(fixed | more))


@pytest.mark.parametrize("trunk_ms", [0.0, 5.0], ids=["streams", "trunks"])
def test_churn_counts_calls_and_resources(server, monkeypatch, trunk_ms):
    monkeypatch.setattr(ageing, "SETTLE_SECONDS", 0.0)
    result = ageing.churned(server, options(calls=40, trunk_ms=trunk_ms))
    assert (result["lost"], result["errors"]) == (0, [])
    assert [sample["calls"] for sample in result["samples"]] == list(range(4, 41, 4))
    assert result["samples"][0]["rss_mb"] > 10
    assert result["samples"][0]["file_descriptors"] > 3


def test_churn_reports_lost_calls_and_growth(server, monkeypatch):
    monkeypatch.setattr(ageing, "SETTLE_SECONDS", 0.0)
    nowhere = replace(server, target="127.0.0.1:1")
    result = ageing.churned(nowhere, options(calls=10))
    assert result["lost"] == 10
    assert result["errors"][0].startswith("UNAVAILABLE")
    assert "10 calls lost" in ageing.churn_failures(result)[0]
    grown = {"lost": 0, "rss_bytes_per_call": 150.0, "rss_bytes_per_call_error": 20.0}
    grown["file_descriptors_growth"] = 1
    assert [line.split(" grow")[0] for line in ageing.churn_failures(grown)] == [
        "resident memory",
        "file descriptors",
    ]
    noisy = grown | {"rss_bytes_per_call_error": 30.0, "file_descriptors_growth": 0}
    assert ageing.churn_failures(noisy) == []


@pytest.mark.parametrize(
    ("p99", "expected"),
    [
        ([9, 9, 900, 900, 9, 9], 0.0),
        ([9, 9, 900, 900, 80, 9], 1.0),
        ([9, 9, 900, 900, 9, 80, 9], 2.0),  # one fast second is no recovery
        ([9, 9, 900, 900, 9, 80], None),
        ([9, 9, 900, 900, None, 9], 1.0),  # no prediction is not a fast one
    ],
)
def test_recovery_is_when_p99_stays_under_the_bound(p99, expected):
    seconds = [{"second": second, "p99_ms": value} for second, value in enumerate(p99)]
    assert phases.recovered(seconds, drop=4.0, bound_ms=50.0) == expected


def test_each_second_has_its_own_figures():
    observed = Observations(
        due=[0.2, 0.9, 1.5],
        latency=[0.01, 0.01, 0.2],
        arrivals=[0.3, 1.0, 1.7, 2.5],
        refused_at=[1.1],
        lost_at=[2.2],
    )
    found = phases.per_second(observed, 3)
    assert [entry["predictions"] for entry in found] == [1, 2, 1]
    assert [entry["p99_ms"] for entry in found] == [10.0, 200.0, None]
    assert [entry["refused"] for entry in found] == [0, 1, 0]
    assert [entry["lost"] for entry in found] == [0, 0, 1]


def test_half_of_the_calls_of_an_overload_stay(server, tmp_path):
    given = options(capacity=4, seconds=5, after=2, bound_ms=1e6, generators=1)
    result = phases.overloaded(server.target, given)
    assert (result["offered"], result["refused"], result["lost"]) == (6, 0, 0)
    assert result["recovered_seconds"] == 0.0
    assert len(result["per_second"]) == result["drop_second"] + 2
    rates = [entry["predictions"] for entry in result["per_second"]]
    alone, crowded = int(result["rise_second"]) - 1, int(result["drop_second"]) - 2
    assert rates[crowded] > rates[alone] > 0, "the additional calls start later"
    assert rates[crowded] > rates[-1] > 0, "and end"
    assert phases.overload_failures(result) == []
    picture = tmp_path / "overload.png"
    plot_overload({**result, "device": "this one"}, picture)
    assert picture.stat().st_size > 1000


@pytest.mark.timeout(120)
def test_an_old_call_is_compared_with_a_young_one(tmp_path):
    """In a process of its own, whose memory no other test has touched."""
    out = tmp_path / "old.json"
    command = [sys.executable, str(BENCHMARKS / "soak.py"), "--scenario", "old-call"]
    command += ["--minutes", "3", "--rounds", "1", "--calls", "300", "--json", str(out)]
    # The exit code judges the ratio too, which a busy machine spoils.
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert out.exists(), done.stderr
    result = json.loads(out.read_text())
    assert 0.3 < result["ratio"]["median"] < 3.0, "a loose bound: this machine may be busy"
    assert result["state_bytes"] == OnnxModel(provider="cpu").metadata.memory_bytes
    assert result["memory_bytes_per_call"] > 0.5 * result["state_bytes"]
    assert ageing.old_call_failures({"ratio": {"median": 1.04}}) == []
    assert ageing.old_call_failures({"ratio": {"median": 1.06}})


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--minutes", "1"], "--minutes 1: no mixed phase"),
        (["--scenario", "overload"], "--capacity: calls that a core serves"),
        (["--scenario", "churn", "--picture", "x.png"], "--picture: scenario churn has none"),
        (["--scenario", "old-call", "--minutes", "2"], "--minutes: age of the old call"),
    ],
)
def test_flags_that_a_scenario_cannot_use_are_refused(monkeypatch, capsys, arguments, error):
    monkeypatch.setattr(sys, "argv", ["soak.py", *arguments])
    with pytest.raises(SystemExit, match="2"):
        soak.main()
    assert error in capsys.readouterr().err


def test_the_help_names_every_scenario():
    text = soak.arguments().format_help()
    assert all(scenario.about in text for scenario in soak.SCENARIOS.values())
