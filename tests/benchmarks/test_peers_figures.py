"""Figures and tables of the comparison with other systems."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))  # import each other by name

from peers import cost, gender, rows
from peers.gender import Recording

ROOT = Path(__file__).parents[2]
GENDER_ROWS = {row.key: row for row in rows.GENDER_ROWS}
COST_ROWS = {row.key: row for row in rows.COST_ROWS}


def recording(truth, speaker):
    return Recording(truth, speaker, bytes(8000), np.zeros(16_000, np.int16))


class TestFigures:
    TRUTH = ("female", "female", "male", "male", "male")
    ANSWERS = ("female", "", "male", "male", "female")
    SPEAKERS = ("a", "b", "c", "d", "e")

    def test_no_answer_is_wrong(self):
        found = gender.score(self.TRUTH, self.ANSWERS, self.SPEAKERS)
        assert (found["n"], found["unanswered"]) == (5, 1)
        assert found["accuracy"]["value"] == pytest.approx(3 / 5)
        assert found["accuracy_of_answered"]["value"] == pytest.approx(3 / 4)
        assert found["female_recall"]["value"] == pytest.approx(1 / 2)
        assert found["male_recall"]["value"] == pytest.approx(2 / 3, abs=1e-5)
        assert found["f1"]["value"] == pytest.approx((1 / 2 + 4 / 5) / 2)
        low, high = found["accuracy"]["interval"]
        assert low < 0.6 < high

    def test_differences_are_on_the_same_speakers(self):
        same = gender.difference(self.TRUTH, self.ANSWERS, self.ANSWERS, self.SPEAKERS)
        assert same["f1"] == {"value": 0.0, "interval": None}
        better = gender.difference(self.TRUTH, self.TRUTH, self.ANSWERS, self.SPEAKERS)
        assert better["accuracy"]["value"] == pytest.approx(2 / 5)
        assert better["accuracy"]["interval"][0] >= 0

    def test_the_pitch_threshold_with_the_best_f1(self):
        assert gender.by_pitch([200.0, 165.0, None], 165.0) == ["female", "male", ""]
        hertz = [210.0, 190.0, 120.0, 130.0, None]
        assert gender.best_threshold(self.TRUTH, hertz) == 160.0  # the middle of 130 to 189

    def test_answers_are_read_as_the_row_requires(self):
        def reply(label, hertz):
            return {"answers": [{"label": label, "hertz": hertz}]}

        replies = [reply("male", 100.0), reply("female", 180.0), {"answers": []}]
        for key, threshold, answers in (
            ("ours", None, ["male", "female", ""]),
            ("pitch_textbook", None, ["male", "female", ""]),
            ("pitch_tuned", 190.0, ["male", "male", ""]),
        ):
            assert gender.read_answers(GENDER_ROWS[key], replies, threshold)[0] == answers


def replies_of(labels, hertz):
    cost_of = {"error": None, "cpu_s": 0.002, "peak_mib": 90.0}
    return [
        {"answers": [{"label": label, "hertz": h}], **cost_of}
        for label, h in zip(labels, hertz, strict=True)
    ]


@pytest.fixture
def result():
    calls = [recording(truth, str(n)) for n, truth in enumerate(["female", "male"] * 6)]
    right = replies_of([c.truth for c in calls], [200.0] * 12)
    pitch = replies_of([""] * 12, [170.0 + 5 * n for n in range(12)])
    both = dict.fromkeys(gender.CONDITIONS)
    collected = {
        rows.OURS: {"replies": dict.fromkeys(both, right), "thresholds": {}},
        rows.PRAAT: {
            "replies": dict.fromkeys(both, pitch),
            "thresholds": dict.fromkeys(both, 181.0),
        },
        rows.SEGMENTER: {"reason": "OSError: no | weights"},
    }
    for found in collected.values():
        found |= {"version": "1", "load_cpu_s": 0.5}
    keys = ("ours", "pitch_textbook", "pitch_tuned", "inaspeechsegmenter")
    made = gender.gender_rows([GENDER_ROWS[key] for key in keys], collected, calls)
    facts = {"manifest": "m.tsv", "split": "test", "band": "full", "per_speaker": False}
    facts |= {"calls": 12, "speakers": 12, "female": 6, "male": 6, "seconds_of_audio": 12.0}
    found = gender.findings(made)
    return {"rows": made, "findings": found, "device": "a machine", **facts}


class TestReport:
    def test_rows_have_the_lead_of_ours(self, result):
        by_key = {row["key"]: row for row in result["rows"]}
        entry = by_key["pitch_tuned"]["conditions"]["telephone"]
        assert entry["threshold_hz"] == 181.0
        assert entry["ours_ahead"]["f1"]["value"] > 0
        assert by_key["pitch_textbook"]["conditions"]["telephone"]["threshold_hz"] == 165.0
        assert by_key["ours"]["conditions"]["telephone"]["ours_ahead"] is None
        assert entry["cpu_s_per_audio_s"] == pytest.approx(0.002, rel=0.02)
        found = result["findings"]
        assert found["did_not_run"] == ["inaspeechsegmenter"]
        assert found["telephone"]["best_peer"] == "pitch_tuned"
        assert found["wideband"]["ahead_of_all"] is True
        assert found["wideband"]["lead"] == entry["ours_ahead"]["f1"]
        assert gender.findings([])["telephone"]["ahead_of_all"] is None

    def test_tables_of_gender(self, result):
        for table in gender.tables(result):
            titles = [row["title"] for row in result["rows"] if not row["reason"]]
            assert [row[0] for row in table.rows] == titles
            assert all(len(row) == len(table.header) for row in table.rows)

    def test_cost_rows_ratios_findings_and_table(self):
        costs = {"ours": [0.4, 0.5, 9.0], "sherpa_onnx": [40.0], "wespeaker": []}
        costs |= {rows.PIPELINE: [60.0], "voice2gender": [1.0]}
        rounds = {key: [{"cost": c, "rate": 2.0} for c in each] for key, each in costs.items()}
        every = [COST_ROWS[key] for key in costs]
        made = cost.cost_rows(every, {}, rounds, {"wespeaker": "no wheel"})
        assert made[0]["cpu_ms_per_call_s"] == 0.5
        assert (made[0]["cpu_ms_min"], made[0]["cpu_ms_max"]) == (0.4, 9.0)
        assert [row["ratio"] for row in made] == [1.0, 80.0, None, 120.0, 2.0]
        assert cost.findings(made) == {
            "pipeline_ratio": 120.0,
            "next_best": "sherpa_onnx",
            "next_best_ratio": 80.0,
            "did_not_run": ["wespeaker"],
        }
        facts = {"rounds": 3, "seconds": 60, "calls": 32, "speech_share": 0.49, "device": "m"}
        (table,) = cost.tables({"rows": made, **facts})
        assert [row[0] for row in table.rows] == [r["title"] for r in made if not r["reason"]]

    def test_the_committed_results_have_pages(self):
        found = json.loads((ROOT / "benchmarks/results/peers.json").read_text())
        for key in ("gender", "gender_per_speaker"):
            assert gender.tables(found[key])[0].rows[0][0] == "voicecohort"
        assert cost.tables(found["cost"])[0].rows[0][0] == "voicecohort"
