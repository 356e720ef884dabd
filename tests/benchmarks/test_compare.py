"""Two checkouts side by side. No figure is evaluated here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))  # import each other by name

from compare import ratio_of

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"


@pytest.mark.timeout(120)
def test_a_checkout_against_itself(tmp_path):
    out = tmp_path / "compare.json"
    command = [sys.executable, str(BENCHMARKS / "compare.py"), "--before", str(ROOT)]
    command += ["--calls", "4", "--seconds", "2", "--rounds", "2", "--json", str(out)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert result["calls"] == 4
    for side in ("before", "after"):
        assert result[side]["cpu_ms_per_call_s"] > 0
        assert result[side]["lost"] == 0
    assert [one["ratio"] for one in result["rounds"]] == pytest.approx(
        [one["after"] / one["before"] for one in result["rounds"]], abs=1e-3
    )
    assert 0.2 < result["ratio"]["median"] < 5


@pytest.mark.timeout(60)
def test_each_server_is_that_of_its_checkout(tmp_path):
    package = tmp_path / "streamer"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "serve.py").write_text("raise SystemExit('another checkout')")
    command = [sys.executable, str(BENCHMARKS / "compare.py"), "--before", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "another checkout" in done.stderr


def test_a_folder_without_a_server(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "compare.py"), "--before", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"{tmp_path}: has no streamer/serve.py" in done.stderr


def test_the_ratio_has_a_median_a_range_and_an_error():
    found = ratio_of([1.0, 2.0, 4.0], [1.1, 2.0, 4.4])
    assert found == {"median": 1.1, "min": 1.0, "max": 1.1, "error": 0.0333}
    assert ratio_of([1.0], [2.0])["error"] is None
