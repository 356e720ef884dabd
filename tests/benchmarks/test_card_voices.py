"""The causes of gaps between genders, as the model card tells them."""

import importlib
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def say(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("model_card.gaps").causes_of_gaps


def cell(calls, errors, doubted=(0, 0, 0), hertz=None):
    speakers, doubted_calls, doubted_errors = doubted
    return {
        "calls": calls,
        "errors": errors,
        "implausible_speakers": speakers,
        "implausible_calls": doubted_calls,
        "implausible_errors": doubted_errors,
        "median_hz": hertz,
    }


VOICES = {
    "male_hz": 190.0,
    "female_hz": 140.0,
    "per_cell": {
        "60+": {"female": cell(20, 6, (2, 4, 4), 160.0), "male": cell(10, 0, hertz=120.0)},
        "20s": {"female": cell(50, 1, hertz=210.0), "male": cell(50, 1)},
    },
}


def gaps(points):
    bands = {band: {"gap_points": gap} for band, gap in points.items()}
    return {"fairness": {"largest": {"age_band": "60+"}, "bands": bands}}


GAP = gaps({"60+": -30.0, "20s": 5.0})


def test_what_remains_without_labels_that_pitch_contradicts(say):
    (said,) = say(GAP, VOICES)
    assert said == (
        "**Why 60+**, -30.0 points: 4 of 6 errors on female voices from the 2 speakers below "
        "140 Hz; 0 errors on male voices, no speaker above 190 Hz. Without those speakers "
        "the gap, female less male, is -12.5 points. Median pitch of the band: "
        "female 160 Hz (in all bands up to 210), male 120 Hz (in all bands up to 120)."
    )


def test_where_nobody_plausible_is_left_no_gap_is_told(say):
    everyone = {"female": cell(4, 2, (1, 4, 2)), "male": cell(10, 0)}
    (said,) = say(GAP, {**VOICES, "per_cell": {"60+": everyone}})
    assert "the gap" not in said
    assert "pitch of the band" not in said


def test_every_gap_of_more_than_five_points_has_its_cause_the_widest_first(say):
    said = say(gaps({"20s": 5.1, "60+": -6.0}), VOICES)
    assert [line.split(":")[0] for line in said] == [
        "**Why 60+**, -6.0 points", "**Why 20s**, +5.1 points"
    ]  # fmt: skip
    assert say(gaps({"60+": -5.0}), VOICES) == []


def test_a_cause_that_was_not_looked_for_is_said_to_be_missing(say):
    assert say(GAP, None) == ["**Why 60+**: not looked for; `--voices` was not given."]
    assert say(GAP, {**VOICES, "per_cell": {"20s": {}}}) == [
        "**Why 60+**: not looked for; `--voices` has no such band."
    ]


@pytest.mark.parametrize("fairness", [None, {"largest": None}])
def test_without_a_gap_there_is_no_cause(say, fairness):
    assert say({"fairness": fairness}, VOICES) == []
