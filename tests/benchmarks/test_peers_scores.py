"""benchmarks/gender_peers/scores.py: figures, bootstrap over speakers, the pitch threshold."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))  # its scripts import each other by plain name

from gender_peers.scores import best_threshold, by_pitch, difference, score  # noqa: E402


def test_a_call_without_an_answer_is_wrong_but_no_false_alarm():
    truth = ["female", "female", "male", "male", "male"]
    said = ["female", "", "male", "female", "nonsense"]
    found = score(truth, said, list("abcde"))
    assert (found["n"], found["unanswered"]) == (5, 2)
    assert found["accuracy"]["value"] == 0.4
    assert found["accuracy_of_answered"]["value"] == pytest.approx(2 / 3, abs=1e-5)
    assert found["female_recall"]["value"] == 0.5
    assert found["male_recall"]["value"] == pytest.approx(1 / 3, abs=1e-5)
    # F1: female 2 * 1 / (2 + 2), male 2 * 1 / (3 + 1)
    assert found["f1"]["value"] == 0.5
    silent = score(truth, [""] * 5, list("abcde"))
    assert silent["accuracy"] == {"value": 0.0, "interval": None}
    assert silent["accuracy_of_answered"]["value"] is None


def test_speakers_are_drawn_not_calls():
    truth = ["female", "male"] * 50
    said = ["female"] * 100
    pairs = [str(n // 2) for n in range(100)]  # each speaker half right: every draw is the same
    assert score(truth, said, pairs)["accuracy"] == {"value": 0.5, "interval": None}
    low, high = score(truth, said, [str(n) for n in range(100)])["accuracy"]["interval"]
    assert 0.38 < low < 0.43
    assert 0.57 < high < 0.62
    wide = score(truth, said, [str(n % 10) for n in range(100)])["accuracy"]["interval"]
    assert wide[1] - wide[0] > high - low, "ten speakers say less than a hundred"


def test_a_lead_is_measured_on_the_same_speakers():
    truth = ["female", "male"] * 20
    persons = [str(n) for n in range(40)]
    theirs = ["female"] * 40
    lead = difference(truth, truth, theirs, persons)["accuracy"]
    assert lead["value"] == 0.5
    assert lead["interval"][0] > 0.3
    none = difference(truth, theirs, theirs, persons)
    assert none["accuracy"] == {"value": 0.0, "interval": None}


def test_the_pitch_threshold_is_the_middle_of_the_best():
    hertz = [110.0, 130.0, 190.0, 210.0, None]
    truth = ["male", "male", "female", "female", "male"]
    assert best_threshold(truth, hertz) == 160.0
    assert by_pitch(hertz, 190.0) == ["male", "male", "male", "female", ""]
