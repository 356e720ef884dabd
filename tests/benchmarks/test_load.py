"""The load benchmarks run, and lose no call; their figures are judged where they are recorded."""

import json
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def run(tmp_path, script, *arguments):
    out = tmp_path / "out.json"
    command = [sys.executable, str(BENCHMARKS / script), *arguments, "--json", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return done, json.loads(out.read_text())


def test_live_calls_are_paced_and_all_end_with_a_prediction(tmp_path):
    done, result = run(tmp_path, "latency.py", "--calls", "20", "--seconds", "3")
    assert done.returncode == 0, done.stderr
    assert (result["calls"], result["lost"], result["errors"]) == (20, 0, [])
    # A prediction each 0.5 s; the one at 3 s may be overtaken by the final one.
    assert 20 * 5 <= result["predictions"] <= 20 * 6
    assert 0 < result["p50_ms"] <= result["p99_ms"] <= result["max_ms"]
    assert 0.2 < result["speech_share"] < 0.8
    assert result["server_cpu_ms_per_call_s"] > 0
    assert result["provider"]


def test_a_refused_call_counts_as_lost(tmp_path):
    done, result = run(
        tmp_path, "latency.py", "--calls", "2", "--seconds", "1", "--target", "127.0.0.1:1"
    )
    assert done.returncode == 1
    assert result["lost"] == 2
    assert result["errors"][0].startswith("UNAVAILABLE")


def test_cost_of_an_old_call_is_compared_with_a_young_one(tmp_path):
    _, result = run(tmp_path, "constant_cost.py", "--minutes", "2", "--rounds", "1")
    assert result["minutes"] == 2
    assert 0.3 < result["ratio"]["median"] < 3.0, "a loose bound: this machine may be busy"
    assert result["state_bytes"] == 4 * 8169
