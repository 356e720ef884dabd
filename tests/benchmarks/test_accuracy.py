"""Scores of the accuracy benchmark against cases worked out by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))  # import each other by name

import accuracy
from accuracy_outcomes import CLASSES, failed, outcome, prediction, running
from scoring import calls, groups, report, scores
from scoring.calls import Outcome
from scoring.manifest import CallPlan
from scoring.result import assemble

from train.evaluation.accuracy_tables import tables


class TestScores:
    def test_macro_over_the_classes_that_occur(self):
        pairs = [("20s", "20s"), ("20s", "child"), ("child", "child")]
        result = assemble([outcome("", band=t, predicted_band=s) for t, s in pairs], CLASSES)
        band = result["age_band"]
        assert band["n"] == 3
        assert band["precision"] == pytest.approx((1 + 1 / 2) / 2)
        assert band["recall"] == pytest.approx((1 / 2 + 1) / 2)
        assert band["f1"] == pytest.approx(2 / 3)
        assert band["accuracy"] == pytest.approx(2 / 3)
        assert band["absent"] == ["teens", "30s", "40s", "50s", "60+"]
        twenties = band["per_class"]["20s"]
        assert {key: twenties[key] for key in ("precision", "recall", "f1", "n")} == {
            "precision": 1.0,
            "recall": 0.5,
            "f1": 2 / 3,
            "n": 2,
        }
        assert band["confusion"] == {"child": {"child": 1}, "20s": {"child": 1, "20s": 1}}
        assert result["age_group"]["absent"] == ["middle", "senior"]
        assert result["gender"]["all"]["n"] == 0
        assert result["gender"]["all"]["f1"] is None

    def test_age_group_forgives_a_neighbouring_band(self):
        result = assemble([outcome("", band="30s", predicted_band="teens")], CLASSES)
        assert result["age_band"]["accuracy"] == 0.0
        assert result["age_group"]["accuracy"] == 1.0

    def test_gender_of_adults_and_of_children(self):
        result = assemble(
            [
                outcome("female", "male", "child"),
                outcome("male", "male", "20s"),
                outcome("female", "female", ""),  # unknown age: neither adult nor child
            ],
            CLASSES,
        )["gender"]
        assert [result[part]["n"] for part in ("all", "adult", "child")] == [3, 1, 1]
        assert result["all"]["accuracy"] == pytest.approx(2 / 3)
        assert result["adult"]["accuracy"] == 1.0
        assert result["adult"]["absent"] == ["female"]
        assert result["child"]["accuracy"] == 0.0
        assert result["child"]["absent"] == ["male"]

    def test_no_speech_is_wrong_and_stands_outside_calibration(self):
        silent = outcome("female", "female", speech=0.0, decided=False, confidence=0.5)
        result = assemble(
            [silent, outcome("female", "female", confidence=0.9)],
            CLASSES,
        )
        assert result["no_speech"] == 1
        assert result["gender"]["all"]["accuracy"] == 0.5
        assert result["ece"]["gender"] == pytest.approx(0.1)
        assert result["decided"]["gender"]["coverage"] == 0.5

    def test_failed_calls_count_nowhere_else(self):
        result = assemble([failed("no such file"), outcome("male", "male")], CLASSES)
        assert (result["calls"], result["failed"]) == (2, 1)
        assert result["failures"] == [{"id": "bad", "reason": "no such file"}]
        assert result["gender"]["all"]["n"] == 1
        assert result["seconds_of_audio"] == 4.0
        assert result["updates"] == {"due": 3, "received": 3}

    def test_failures_are_listed_up_to_a_bound(self):
        result = assemble([failed()] * 50, CLASSES)
        assert result["failed"] == 50
        assert len(result["failures"]) == 20

    @pytest.mark.parametrize("outcomes", [[], [failed()], [outcome("")]])
    def test_nothing_to_measure_is_null_not_nan(self, outcomes, tmp_path):
        result = assemble(outcomes, CLASSES)
        text = json.dumps(result, allow_nan=False)
        assert json.loads(text) == result
        assert result["ece"] == dict.fromkeys(calls.TASKS)
        shares = dict.fromkeys(("coverage", "accuracy", "accuracy_all"))
        counts = dict.fromkeys(("n", "speakers", "decided"), 0)
        assert result["decided"]["gender"] == {**counts, **shares, "interval": shares}
        # And it can still be shown.
        head = {"model": "m", "manifest": "x", "split": "s", "per_speaker": False, "band": "full"}
        page = report.markdown({**head, **result}, "command")
        assert "| gender | 0 | 0 | – | – | – | – |" in page  # noqa: RUF001
        for draw in (report.picture, report.calibration_picture):
            draw({**head, **result}, tmp_path / "p.png")
            assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_the_corpus_probe_of_the_model_file_has_a_table():
    result = assemble([outcome("male")], CLASSES)
    row = {"band": "20s", "corpora": 3, "chance": 0.333, "shuffled": 0.31, "audio": 0.4}
    row |= {"accuracy": 0.52, "low": 0.4, "high": 0.6}
    result["shortcut"] = {"corpus_probe": [row], "reading": "how to read it"}
    (table,) = [t for t in tables(result) if t.title.startswith("Corpus predicted")]
    assert table.rows == [("20s", "3", "0.333", "0.310", "0.400", "0.520 (0.40 to 0.60)")]
    assert "how to read it" in table.note


class TestBySpeech:
    OUTCOMES = (
        outcome(
            "male",
            "female",
            speech=2.1,
            updates=(
                running(0.48, "female"),
                running(0.96, "male"),
                running(1.44, "male"),
                running(2.1, "female"),
            ),
        ),
        outcome(
            "female", "male", speech=0.7, updates=(running(0.32, "female"), running(0.7, "male"))
        ),
    )

    @pytest.mark.parametrize(
        ("seconds", "n", "accuracy", "accuracy_all"),
        [
            (0.5, 2, 0.5, 0.5),  # 0.48 wrong, 0.32 right
            (1.0, 1, 1.0, 0.5),  # 0.96 right; the short call's final answer is wrong
            (2.0, 1, 1.0, 0.5),  # 1.44, not 2.1
            (3.0, 0, None, 0.0),  # no call is so long; both final answers are wrong
        ],
    )
    def test_last_prediction_on_at_most_so_much_speech(self, seconds, n, accuracy, accuracy_all):
        rows = scores.by_speech(self.OUTCOMES, CLASSES, "gender")
        row = next(r for r in rows if r["speech_seconds"] == seconds)
        assert (row["n"], row["accuracy"]) == (n, accuracy)
        assert (row["n_all"], row["accuracy_all"]) == (2, accuracy_all)

    def test_every_amount_of_speech_has_a_row(self):
        rows = scores.by_speech(self.OUTCOMES, CLASSES, "age_band")
        assert [r["speech_seconds"] for r in rows] == [0.5, 1, 2, 3, 5, 10, 20]
        assert all(r["n_all"] == 0 and r["f1"] is None for r in rows)  # age unknown

    def test_first_prediction_where_none_came_in_time(self):
        late = outcome("male", updates=(running(0.64, "male"), running(3.0, "female")))
        assert scores.choice_after(late, "gender", 0.5) == "male"

    def test_rounding_of_the_protocol_does_not_matter(self):
        steps = (running(0.84, "female"), running(1.0 + 1e-9, "male"), running(3.0, "female"))
        exact = outcome("male", speech=3.0, updates=steps)
        assert scores.choice_after(exact, "gender", 1.0) == "male"

    def test_without_speech_there_is_no_choice(self):
        silent = Outcome(CallPlan("u", "c", "male", "", ()), final=prediction(speech=0.0))
        assert scores.choice_after(silent, "gender", 20.0) == ""
        assert scores.by_speech([silent], CLASSES, "gender")[0]["accuracy_all"] == 0.0


def test_decided_calls_are_those_with_a_label():
    result = scores.decided(
        [
            outcome("male", "male"),
            outcome("female", "female"),
            outcome("female", "male"),
            outcome("male", "male", decided=False),
            outcome("", "male"),  # gender unknown
        ],
        CLASSES,
        "gender",
    )
    assert (result["n"], result["decided"], result["coverage"]) == (4, 3, 0.75)
    assert result["accuracy"] == pytest.approx(2 / 3)
    assert result["accuracy_all"] == 0.75  # the undecided one would have been right


def test_calibration_error_and_bins():
    found = scores.calibrated(
        [
            outcome("male", "male", confidence=0.9),
            outcome("male", "female", confidence=0.65),
            outcome("male", "male", confidence=0.65),
        ],
        CLASSES,
        "gender",
    )
    # Two bins: one call right at 0.9, two at 0.65 of which half are right.
    assert found["ece"] == pytest.approx(1 / 3 * 0.1 + 2 / 3 * 0.15)
    assert found["overconfidence"] == pytest.approx((0.9 + 2 * 0.65) / 3 - 2 / 3)
    alone = {"speakers": 1, "interval": None}  # one speaker: nothing to draw
    assert found["bins"] == [
        {"confidence": pytest.approx(0.65), "accuracy": 0.5, "n": 2, **alone},
        {"confidence": pytest.approx(0.9), "accuracy": 1.0, "n": 1, **alone},
    ]


def test_child_against_20s_only_inside_the_corpus():
    inside = {"corpus": "speechocean762"}
    outcomes = [
        outcome("", band="child", predicted_band="child", **inside),
        outcome("", band="child", predicted_band="20s", **inside),
        outcome("", band="20s", predicted_band="40s", **inside),
        outcome("", band="30s", predicted_band="child", **inside),
        outcome("", band="20s", predicted_band="child"),
    ]
    pair = groups.child_vs_20s(outcomes, CLASSES)
    assert pair["n"] == 3
    assert pair["age_band"]["accuracy"] == pytest.approx(1 / 3)
    # 40s leaves child and 20s equal; the first of the two is taken, which is wrong here.
    assert pair["forced"]["accuracy"] == pytest.approx(1 / 3)
    assert pair["age_group"]["per_class"]["child"]["recall"] == 0.5
    assert groups.child_vs_20s(outcomes[:2], CLASSES) is None


def test_per_band_and_per_corpus():
    result = assemble(
        [
            outcome("female", "female", "50s", "40s", corpus="a"),
            outcome("female", "male", "50s", "50s", corpus="a"),
            outcome("male", "male", "60+", "20s", corpus="b"),
            outcome("male", "female", "", corpus="b"),
        ],
        CLASSES,
    )
    assert list(result["per_band"]) == ["50s", "60+"]
    nobody = {"recall": None, "n": 0, "speakers": 0, "interval": None}
    assert result["per_band"]["50s"] == {
        "calls": 2,
        "speakers": 1,
        "corpora": ["a"],
        "age_group_recall": 1.0,
        "age_band_recall": 0.5,
        "interval": {"age_group_recall": None, "age_band_recall": None},
        "gender": {
            "female": {"recall": 0.5, "n": 2, "speakers": 1, "interval": None},
            "male": nobody,
        },
    }
    assert result["per_corpus"]["a"]["gender"] == {
        "n": 2,
        "speakers": 1,
        "accuracy": 0.5,
        "recall": 0.5,
        "f1": pytest.approx(2 / 3),
        "interval": {"accuracy": None, "recall": None, "f1": None},
    }
    assert result["per_corpus"]["b"]["calls"] == 2
    assert result["per_corpus"]["b"]["age_band"]["n"] == 1


def test_labels_that_the_model_lacks_are_named():
    plan = CallPlan("u7", "c", "male", "forties", ())
    assert CLASSES.unknown_label(plan).startswith(
        "age_band: 'forties' of u7 is none of child, teens"
    )
    assert CLASSES.unknown_label(CallPlan("u7", "c", "", "", ())) == ""


def test_shown_command_has_no_machine_paths():
    words = ["--manifest", "/home/x/m.tsv", "--split", "a b", "--json=/tmp/o.json"]
    words += ["--target", "10.1.2.3:50051", "--per-speaker"]
    assert accuracy.shown_command(words) == (
        "python benchmarks/accuracy.py --manifest m.tsv --split 'a b' --json=o.json "
        "--target HOST:PORT --per-speaker"
    )
