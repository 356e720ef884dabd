"""What a step costs on each device; the figures are judged where they are recorded."""

import json
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_every_device_there_is_takes_its_steps(tmp_path):
    out, picture = tmp_path / "out.json", tmp_path / "out.png"
    command = [
        sys.executable,
        str(BENCHMARKS / "step_cost.py"),
        "--rows",
        "1",
        "4",
        "--rounds",
        "1",
    ]
    command += ["--json", str(out), "--picture", str(picture)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    reference, eight_bits, *gpu = result["ways"]
    assert (reference["device"], eight_bits["device"]) == ("CPU", "CPU")
    assert bool(gpu) is ("no GPU" not in done.stderr)
    for way in result["ways"]:
        assert [step["rows"] for step in way["steps"]] == [1, 4]
        for step in way["steps"]:
            assert 0 < step["ms"] < 10_000
            assert step["cpu_ms"] > 0
            assert step["first_ms"] > 0
            assert abs(step["blocks_per_s"] * step["ms"] / 1000 - step["rows"]) < 0.1
            assert step["difference"] < 0.2
    assert {step["difference"] for step in reference["steps"]} == {0.0}
    assert result["device"]
    assert picture.stat().st_size > 1000
