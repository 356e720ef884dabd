"""The benchmarks of training run; their figures are judged where they are recorded."""

import json
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def run(tmp_path, script, *arguments):
    out = tmp_path / "out.json"
    command = [sys.executable, str(BENCHMARKS / script), *map(str, arguments), "--json", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text())


def test_the_loader_is_compared_with_the_student(prepared, tmp_path):
    found = run(tmp_path, "loader_speed.py", "--data", prepared, "--batches", 1)
    assert set(found["presets"]) == {"simple", "full"}
    for figures in found["presets"].values():
        assert figures["loader_ms_per_s"] > 0
        assert figures["times_faster"] > 0
    assert found["step_ms_per_s"] > 0


def test_every_effect_of_the_channel_is_costed(tmp_path):
    found = run(tmp_path, "channel_cost.py", "--calls", 2, "--seconds", 1)
    assert found["presets"]["full"] > found["presets"]["clean"]
    assert "amr" in found["effects"]
