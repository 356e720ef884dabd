"""The cause of the largest gap between genders, as the model card tells it."""

import importlib
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def say(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("model_card.findings").cause_of_the_gap


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
GAP = {"fairness": {"largest": {"age_band": "60+"}}}


def test_what_remains_without_labels_that_pitch_contradicts(say):
    (said,) = say(GAP, VOICES)
    assert said == (
        "**Why 60+**: 4 of 6 errors on female voices are of the 2 speakers below 140 Hz; "
        "0 of 0 errors on male voices are of the 0 speakers above 190 Hz. Without those speakers "
        "the gap, female less male, is -12.5 points. Median pitch of the band: "
        "female 160 Hz (in all bands up to 210), male 120 Hz (in all bands up to 120)."
    )


def test_where_nobody_plausible_is_left_no_gap_is_told(say):
    everyone = {"female": cell(4, 2, (1, 4, 2)), "male": cell(10, 0)}
    (said,) = say(GAP, {**VOICES, "per_cell": {"60+": everyone}})
    assert "the gap" not in said
    assert "pitch of the band" not in said


@pytest.mark.parametrize("voices", [None, {**VOICES, "per_cell": {"20s": {}}}])
def test_a_cause_that_was_not_looked_for_is_said_to_be_missing(say, voices):
    assert say(GAP, voices) == [
        "**Why 60+**: not looked for; `--voices` was not given or has no such band."
    ]


@pytest.mark.parametrize("fairness", [None, {"largest": None}])
def test_without_a_gap_there_is_no_cause(say, fairness):
    assert say({"fairness": fairness}, VOICES) == []
