"""Two checkouts in turns. No figure is judged here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(120)
def test_a_checkout_against_itself(tmp_path):
    out = tmp_path / "turns.json"
    command = [sys.executable, "benchmarks/side_by_side.py", "--before", str(ROOT)]
    command += ["--calls", "12", "--rounds", "3", "--json", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    result = json.loads(out.read_text())
    assert (result["calls"], result["rounds"]) == (12, 3)
    for thread in ("loop", "total"):
        assert result[thread]["before"] > 0
        assert 0.2 < result[thread]["ratio"] < 5
    assert result["loop"]["after"] < result["total"]["after"]


@pytest.mark.timeout(60)
def test_a_folder_without_a_server(tmp_path):
    done = subprocess.run(
        [sys.executable, "benchmarks/side_by_side.py", "--before", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert f"{tmp_path}: has no streamer/transport/trunk.py" in done.stderr
