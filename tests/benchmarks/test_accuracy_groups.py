"""Scores of parts of the calls: counts, intervals, and what is left out."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))  # import each other by name

from accuracy_outcomes import CLASSES, NAMES, failed, outcome
from scoring import groups, scores
from scoring.groups import fairness
from scoring.report import facts
from scoring.result import assemble

from train.evaluation.accuracy_tables import tables


def crowd(count, wrong, gender="male", band="20s", **kwargs):
    """Calls of so many speakers, the first ``wrong`` of them taken for the other gender."""
    other = {"male": "female", "female": "male"}[gender]
    return [
        outcome(
            gender, other if n < wrong else gender, band, band, speaker=f"{gender}{n}", **kwargs
        )
        for n in range(count)
    ]


def shown(outcomes, title):
    """The table whose title begins so."""
    (table,) = [t for t in tables(assemble(outcomes, CLASSES)) if t.title.startswith(title)]
    return table


def test_every_score_has_speakers_and_an_interval_around_it():
    result = assemble(crowd(20, 4) + crowd(20, 2, "female") + crowd(6, 1, band="40s"), CLASSES)
    assert result["speakers"] == 40  # male0 to male5 have a call in either band
    for scored in (result["gender"]["all"], result["gender"]["adult"]):
        assert scored["speakers"] == 40
        for key in ("precision", "recall", "f1", "accuracy"):
            low, high = scored["interval"][key]
            assert low < scored[key] < high
        at = scored["per_class"]["female"]
        assert (at["n"], at["speakers"], at["recall"]) == (20, 20, 0.9)
        assert at["interval"]["recall"][0] < 0.9 < at["interval"]["recall"][1]
    assert result["age_group"]["interval"]["f1"] is None  # all right: nothing varies
    row = result["by_speech"]["gender"][0]
    for key in ("accuracy", "recall", "f1", "accuracy_all", "recall_all", "f1_all"):
        low, high = row["interval"][key]
        assert low < row[key] < high
    assert row["speakers"] == row["speakers_all"] == 40
    assert (result["bootstrap"]["draws"], result["bootstrap"]["over"]) == (1000, "speakers")


def test_confusion_names_what_was_said():
    silent = outcome("male", "male", speech=0.0)
    found = scores.final_scores([*crowd(3, 2), silent], CLASSES, "gender")
    assert found["confusion"] == {"male": {"female": 2, "male": 1, "": 1}}


def test_what_abstaining_gains():
    undecided = [o for n in range(4) for o in crowd(4, 3, decided=False, band="30s")]
    found = scores.decided(crowd(10, 1) + undecided, CLASSES, "gender")
    assert (found["n"], found["decided"], found["speakers"]) == (26, 10, 10)
    assert found["accuracy"] == 0.9
    assert found["accuracy_all"] == pytest.approx((9 + 4) / 26)
    for key in ("accuracy", "accuracy_all", "coverage"):
        low, high = found["interval"][key]
        assert low < found[key] < high


def test_calibration_intervals_hold_their_figures():
    calls = crowd(40, 10, confidence=0.9) + crowd(30, 3, "female", confidence=0.7)
    found = scores.calibrated(calls, CLASSES, "gender")
    assert found["ece"] == pytest.approx((40 * 0.15 + 30 * 0.2) / 70)
    assert found["overconfidence"] == pytest.approx((40 * 0.15 - 30 * 0.2) / 70)
    for key in ("ece", "overconfidence"):
        low, high = found["interval"][key]
        assert low < found[key] < high
    assert [b["speakers"] for b in found["bins"]] == [30, 40]
    assert found["bins"][0]["interval"][0] < 0.9 < found["bins"][0]["interval"][1]


class TestFairness:
    def test_gap_in_points_and_the_widest_of_them(self):
        calls = crowd(10, 4, band="20s") + crowd(15, 0, "female", "20s")
        calls += crowd(20, 2, band="60+") + crowd(20, 3, "female", "60+")
        found = fairness(calls, CLASSES)
        assert found["genders"] == ["female", "male"]
        assert list(found["bands"]) == ["20s", "60+"]
        twenties = found["bands"]["20s"]
        assert (twenties["calls"], twenties["speakers"]) == (25, 25)
        assert twenties["gender"]["male"]["recall"] == 0.6
        assert twenties["gender"]["male"]["speakers"] == 10
        assert twenties["gap_points"] == pytest.approx(40)
        low, high = twenties["interval"]
        assert 0 < low < 40 < high
        assert found["bands"]["60+"]["gap_points"] == pytest.approx(-5)
        assert found["largest"]["age_band"] == "20s"
        assert found["largest"]["gap_points"] == pytest.approx(40)

    def test_bands_that_are_left_out_say_why(self):
        calls = crowd(12, 0) + crowd(7, 0, "female") + crowd(30, 0, band="40s")
        calls += crowd(30, 3, band="child") + crowd(30, 3, "female", "child")
        found = fairness(calls, CLASSES)
        assert found["bands"] == {}
        assert found["largest"] is None
        assert found["left_out"] == {"20s": "19 speakers, needs 20", "40s": "no female speaker"}
        table = shown(calls, "Gender on telephone")
        assert "Left out: 20s, 19 speakers, needs 20. " in table.note

    def test_one_person_with_many_calls_is_one_speaker(self):
        calls = [o for _ in range(20) for o in crowd(1, 0)] + crowd(30, 0, "female")[:18]
        assert fairness(calls, CLASSES)["left_out"] == {"20s": "19 speakers, needs 20"}

    def test_a_model_of_three_genders_has_no_one_gap(self):
        three = scores.Classes({**NAMES, "gender": ("child", "female", "male")}, CLASSES.parents)
        result = assemble(crowd(3, 1), three)
        assert result["fairness"] is None
        assert "The model has other than two genders" in result["unmeasured"][-1]


class TestLanguages:
    def test_small_ones_stand_together(self):
        calls = crowd(6, 1, language="en") + crowd(8, 1, "female", language="ko")
        calls += crowd(2, 1, language="uz", corpus="b") + crowd(3, 0, language="ta", corpus="b")
        calls += crowd(5, 0, language="", corpus="c")
        found = groups.per_language(calls, CLASSES)
        assert list(found) == ["ko", "en", "not given", "others"]
        assert (found["ko"]["calls"], found["ko"]["speakers"]) == (8, 8)
        assert found["ko"]["gender"]["accuracy"] == 7 / 8
        assert found["others"]["languages"] == ["ta", "uz"]
        assert found["others"]["calls"] == 5
        table = shown(calls, "Gender by language")
        assert [row[0] for row in table.rows] == ["ko", "en", "not given", "2 others"]
        assert "Others: ta, uz." in table.note

    def test_without_the_column_it_is_said_and_not_guessed(self):
        result = assemble(crowd(6, 1), CLASSES)
        assert result["per_language"] == {}
        sentence = "The manifest has no column language: there are no figures by language."
        assert result["unmeasured"] == [sentence]
        head = {"model": "m", "manifest": "x", "split": "s", "per_speaker": False, "band": "full"}
        assert sentence in facts({**head, **result})

    def test_cells_that_the_manifest_leaves_empty_are_counted(self):
        calls = [outcome("male", language="", corpus="", speaker=""), *crowd(2, 0, language="en")]
        assert assemble([*calls, failed()], CLASSES)["unmeasured"] == [
            "1 of 3 calls have no language: they stand under “not given”.",
            "1 of 3 calls have no corpus: they stand under “not given”.",
            "1 of 3 calls have no speaker: each counts as a speaker of its own, so intervals are "
            "too narrow.",
            "1 of 3 calls have no age band: they count in no figure of age.",
        ]
        assert list(groups.per_corpus(calls, CLASSES)) == ["c", "not given"]


def test_cells_of_gender_and_band():
    calls = crowd(6, 2, band="20s") + crowd(5, 0, "female", "60+") + [outcome("male")]
    first, second = groups.per_cell(calls, CLASSES)
    assert (first["gender"], first["age_band"], first["calls"]) == ("male", "20s", 6)
    assert first["gender_recall"] == pytest.approx(4 / 6)
    assert first["interval"]["gender_recall"][0] < 4 / 6
    assert (second["gender"], second["age_band"], second["speakers"]) == ("female", "60+", 5)
    assert second["interval"]["gender_recall"] is None


def test_cells_within_a_corpus_of_few_speakers_are_left_out_and_counted():
    calls = crowd(6, 2, corpus="a", language="en") + crowd(4, 0, corpus="b", language="en")
    calls += crowd(5, 0, "female", corpus="a")
    found = groups.per_corpus_cell(calls, CLASSES)
    assert [(c["corpus"], c["language"], c["gender"]) for c in found["cells"]] == [
        ("a", None, "female"),
        ("a", "en", "male"),
    ]
    assert found["left_out"] == {"cells": 1, "calls": 4}
    table = shown(calls, "By corpus, language")
    assert [row[0] for row in table.rows] == ["a, female, 20s", "a, en, male, 20s"]
    assert table.note == "Left out: 1 cell of fewer than 5 speakers, with 4 calls."


def test_recall_stands_beside_f1_everywhere():
    result = assemble(crowd(6, 2, language="en") + crowd(6, 2, "female", language="en"), CLASSES)
    seen = 0
    for table in tables(result):
        if any(name.startswith("F1") for name in table.header):
            assert any(name.startswith("recall") for name in table.header), table.title
            seen += 1
    assert seen >= 10

    def walk(value):
        if isinstance(value, dict):
            assert "f1" not in value or "recall" in value
            for inner in value.values():
                walk(inner)

    walk(result)
