"""A short soak with calls of every kind, and what the soak makes of growth, answers and latency."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))  # import each other by name

from load.calls import Seen
from soaking.callers import KINDS, Tally
from soaking.judge import Phase, growth, latency_by_phase
from soaking.reference import difference
from soaking.result import failures, result_of

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
def test_growth_is_told_from_noise_or_nothing_is_said(slope, noise, flat):
    grown = growth(*series(slope, noise), "rss_mb")
    assert grown["flat"] is flat
    assert grown["per_hour"] == pytest.approx(slope, abs=4 * grown["error"])


def test_a_few_samples_say_nothing_of_growth():
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


def outcome(seen=None, calls=1, wrong=(), tally=None):
    class Options:
        minutes, quiet = 1000 / 60, 100

    at, rss = series(0, 0.1)
    samples = [
        {"at": float(t), "rss_mb": mb, "file_descriptors": 20, "cpu": 0.1}
        for t, mb in zip(at, rss, strict=True)
    ]
    tally = tally or Tally({name: {} for name in KINDS})
    seen = seen or Seen(finals=1, due=[50.0, 500.0], latency=[0.01, 0.015])
    idle = {"file_descriptors": 20, "threads": 10}
    names = {"python": 5, "event_engine": 5}
    result = result_of(Options, PHASES, seen, calls, list(wrong), tally, samples)
    threads = {"before": names, "after": dict(names)}
    return result | {"idle": {"before": idle, "after": dict(idle), "threads": threads}}


def test_what_must_not_be_is_said():
    assert failures(outcome()) == []
    assert "1 normal calls wrong" in failures(outcome(wrong=["recording 3"]))[0]
    assert "1 normal calls lost" in failures(outcome(calls=2))[0]
    refused = Seen(finals=1, refused_at=[5.0])
    assert "1 normal calls refused" in failures(outcome(refused, calls=2))[0]
    slow = Seen(finals=1, due=[50.0, 500.0], latency=[0.01, 0.021])
    assert "p99 is 2.1 times" in failures(outcome(slow))[0]
    bad = Tally({name: {} for name in KINDS}, unexpected=["idle: OK"], refused_good=2)
    said = failures(outcome(tally=bad))
    assert said == ["2 good calls refused", "ends that must not be: ['idle: OK']"]
    leaky = outcome()
    leaky["idle"]["after"]["file_descriptors"] += 1
    assert failures(leaky) == ["file_descriptors: 20 before, 21 after"]
    threads = outcome()
    threads["idle"]["after"]["threads"] += 1
    threads["idle"]["threads"]["after"]["event_engine"] += 1
    whose = "event_engine 5 before, 6 after"
    assert failures(threads) == [f"threads: 10 before, 11 after ({whose})"]
