"""Who is called implausible, and what the figures say of them."""

import argparse
import importlib
import math
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def module(monkeypatch):
    """Imports a benchmark by its name: they are no package."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


@pytest.mark.parametrize(
    ("gender", "pitch", "expected"),
    [
        ("male", [191.0], True),
        ("male", [190.0], False),
        ("male", [100.0, 250.0, 260.0], True),
        ("male", [100.0, 110.0, 260.0], False),
        ("female", [139.0], True),
        ("female", [140.0], False),
        ("female", [math.nan], False),
        ("male", [math.nan, 200.0], True),
    ],
)
def test_a_speaker_is_judged_by_the_median_of_the_calls(module, gender, pitch, expected):
    found = module("implausible").implausible({"a": pitch}, {"a": gender}, 140.0, 190.0)
    assert found == ({"a"} if expected else set())


def test_errors_are_counted_by_corpus_and_by_plausibility(module, monkeypatch):
    plan = module("scoring.plans").Plan
    outcome = module("scoring.calls").Outcome
    classes = module("scoring.scores").Classes(
        {"gender": ("female", "male"), "age_group": ("a",), "age_band": ("20s",)}, (0,)
    )
    people = [
        ("x", "1", "male", "female"),
        ("x", "1", "male", "female"),
        ("x", "2", "male", "male"),
    ]
    people += [("y", "3", "female", "female"), ("y", "4", "female", "male")]
    made = [
        (outcome(plan(f"{n}", corpus, gender, "20s", (), speaker)), said)
        for n, (corpus, speaker, gender, said) in enumerate(people)
    ]
    implausible = module("implausible")
    said_of = {id(one): said for one, said in made}
    monkeypatch.setattr(implausible, "final_choice", lambda one, _: said_of[id(one)])
    options = argparse.Namespace(split="test", per_speaker=False, male_hz=190.0, female_hz=140.0)
    outcomes = [one for one, _ in made]
    pitch = {"x/speaker/1": [200.0, 220.0], "x/speaker/2": [math.nan, 120.0]}
    result = implausible.result_of(outcomes, classes, {"x/speaker/1"}, options, pitch)
    assert (result["calls"], result["speakers"], result["errors"]) == (5, 4, 3)
    assert result["implausible"] == {"speakers": 1, "calls": 2, "errors": 2}
    assert result["accuracy"]["value"] == pytest.approx(2 / 5)
    assert result["accuracy_plausible"]["value"] == pytest.approx(2 / 3)
    assert result["ceiling"] == pytest.approx(3 / 5)
    men = result["per_cell"]["20s"]["male"]
    assert (men["calls"], men["errors"], men["implausible_errors"]) == (3, 2, 2)
    assert men["median_hz"] == pytest.approx(165.0)  # of 210 and 120
    assert result["per_cell"]["20s"]["female"]["median_hz"] is None
    assert result["per_corpus"]["y"] == {
        "calls": 2,
        "errors": 1,
        "implausible_calls": 0,
        "implausible_errors": 0,
        "speakers": 2,
        "implausible_speakers": 0,
    }
