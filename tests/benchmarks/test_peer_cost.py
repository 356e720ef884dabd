"""benchmarks/peer_cost.py: rows, ratios and reasons. Nothing is installed here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))  # its scripts import each other by plain name

import peer_cost  # noqa: E402
from neighbours import running  # noqa: E402
from neighbours.catalogue import OURS, PEERS, PIPELINE, Environment, Peer  # noqa: E402
from neighbours.child import several, windows  # noqa: E402
from neighbours.report import findings, markdown, picture, row, server_row, with_ratios  # noqa: E402
from neighbours.running import Unavailable, interpreter, one_line  # noqa: E402

BY_KEY = {peer.key: peer for peer in PEERS}


def cost(key, *milliseconds):
    rounds = [{"cpu_s": 2 * ms / 1000, "call_s": 2.0, "predictions": 4} for ms in milliseconds]
    return row(BY_KEY[key], "1.0", rounds, "" if rounds else "no wheel")


@pytest.fixture
def rows():
    return with_ratios(
        [
            cost(OURS, 0.4, 0.5, 9.0),
            cost("student_graph", 2.0),
            cost("sherpa_onnx", 40.0),
            cost("wespeaker"),
            cost(PIPELINE, 60.0),
            cost("voice2gender", 1.0),
        ]
    )


def result(rows):
    facts = {"rounds": 3, "seconds": 60, "calls": 32, "speech_share": 0.49, "device": "a machine"}
    return {"rows": rows, **facts}


def test_a_row_is_the_median_round_and_its_ratio_to_ours(rows):
    assert rows[0]["cpu_ms_per_call_s"] == 0.5
    assert (rows[0]["cpu_ms_min"], rows[0]["cpu_ms_max"]) == (0.4, 9.0)
    assert rows[0]["predictions_per_call_s"] == 2.0
    assert [entry["ratio"] for entry in rows] == [1.0, 4.0, 80.0, None, 120.0, 2.0]
    assert rows[3]["reason"] == "no wheel"


def test_the_next_best_is_a_neural_peer_with_running_predictions(rows):
    assert findings(rows) == {
        "pipeline_ratio": 120.0,
        "next_best": "sherpa_onnx",
        "next_best_ratio": 80.0,
        "did_not_run": ["wespeaker"],
    }
    alone = findings(with_ratios([cost("sherpa_onnx", 40.0)]))
    assert (alone["pipeline_ratio"], alone["next_best"]) == (None, None), "nothing to compare with"


def test_the_whole_server_comes_from_a_file(tmp_path):
    path = tmp_path / "throughput.json"
    path.write_text(json.dumps({"cpu_ms_per_call_s": {"total": 1.5}}))
    both = with_ratios([cost(OURS, 0.5), server_row(path)])
    assert (both[1]["cpu_ms_per_call_s"], both[1]["ratio"]) == (1.5, 3.0)
    path.write_text("{}")
    with pytest.raises(ValueError, match="cpu_ms_per_call_s"):
        server_row(path)


def test_table_and_picture_tell_of_every_row(rows, tmp_path):
    text = markdown(result(rows))
    assert "| did not run |" in text
    assert "Reason: no wheel" in text
    assert all(BY_KEY[entry["key"]].title in text for entry in rows)
    picture(result(rows), tmp_path / "out.png")
    assert (tmp_path / "out.png").stat().st_size > 10_000


def test_windows_are_due_each_half_second_with_speech():
    call = peer_cost.demo_calls(20)[0]
    heard = list(windows(call))
    assert 8 <= len(heard) <= 2 * 20
    assert len(heard[0]) < 3 * 8000
    assert len(heard[-1]) == 3 * 8000
    assert all(len(window) >= 3 * 8000 for window in windows(call, least_seconds=3.0))
    assert list(windows(np.full(80_000, 0xFF, np.uint8))) == [], "silence"


def test_several_calls_are_the_same_bytes_out_of_step():
    calls = peer_cost.demo_calls(2)
    many = several(calls, 5)
    assert many.shape == (5, 16_000)
    assert not np.array_equal(many[0], many[2])
    assert sorted(many[4]) == sorted(calls[0])
    assert several(calls, None) is calls


def test_our_row_runs_beside_peers_that_cannot(tmp_path, monkeypatch):
    def fail(command):
        raise Unavailable(f"not installed: {command[1]} {command[2]}")

    monkeypatch.setattr(running, "_run", fail)
    absent = Peer("absent", "absent", "ours", "", environment=Environment("absent", ("none==0",)))
    broken = Peer("broken", "broken", "no_such_module", "")
    options = peer_cost.parse(["--seconds", "2", "--rounds", "1", "--calls", "2"])
    options.environments = tmp_path
    measured = peer_cost.measure([BY_KEY[OURS], absent, broken], options)
    ours, first, second = measured["rows"]
    assert ours["cpu_ms_per_call_s"] > 0
    assert ours["ratio"] == 1.0
    assert ours["version"].startswith("ecapa")
    assert first["reason"] == "not installed: -m venv"
    assert "no_such_module" in second["reason"]
    assert not measured["complete"]
    assert measured["findings"]["did_not_run"] == ["absent", "broken"]


def test_a_peer_that_says_nothing_has_no_cost(tmp_path):
    """Its windows may never be full: cheap, and worth nothing."""
    np.save(tmp_path / "calls.npy", peer_cost.demo_calls(1))
    program = "from neighbours.child import serve; serve(lambda _: ('1.0', lambda _: 0))"
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "calls.npy")],
        env=running.command_environment(),
        input="\n\n",
        capture_output=True,
        text=True,
        check=True,
    )
    ready, answer = map(json.loads, done.stdout.splitlines())
    assert ready["version"] == "1.0"
    assert answer == {"reason": "ValueError: no prediction came out: there is nothing to compare"}


def test_an_environment_is_made_once(tmp_path, monkeypatch):
    commands = []

    def note(command):
        commands.append(command[1:3])
        (tmp_path / "some").mkdir(exist_ok=True)

    monkeypatch.setattr(running, "_run", note)
    some = Environment("some", ("a==1",), ("b==2",))
    python = interpreter(some, tmp_path)
    assert python == tmp_path / "some" / "bin" / "python"
    assert commands == [["-m", "venv"], ["-m", "pip"], ["-m", "pip"]]
    interpreter(some, tmp_path)
    assert len(commands) == 3
    interpreter(Environment("some", ("a==2",)), tmp_path)
    assert len(commands) == 5, "other pins, made anew"


def test_a_reason_is_one_line_without_paths():
    text = f"Traceback\n  File {ROOT}/x.py\nERROR: No matching distribution\n\n"
    assert one_line(text) == "ERROR: No matching distribution"
    assert str(ROOT) not in one_line(f"cannot open {ROOT}/x.py")
    assert one_line("") == "no message"
