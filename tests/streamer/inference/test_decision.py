import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.inference.decision import Decider, Undecided, calibrated, temperature_at
from streamer.inference.metadata import TASKS, Calibration, Metadata
from tests.streamer.doubles import FakeModel

POSTERIORS = ([0.8, 0.2], [0.1, 0.6, 0.3], [0.05, 0.05, 0.6, 0.3])
CURVE = Calibration(speech_seconds=(1.0, 2.0, 6.0), temperature=(3.0, 2.0, 1.0))


def decider(*, temperature=((1.0,), (1.0,)), min_speech=1.0, min_confidence=0.5):
    seconds, values = temperature
    calibration = {"speech_seconds": seconds, "temperature": values}
    rule = {"min_speech_seconds": min_speech, "min_confidence": min_confidence}
    changes = {
        "calibration": dict.fromkeys(TASKS, calibration),
        "decision": dict.fromkeys(TASKS, rule),
    }
    return Decider(Metadata.model_validate(FakeModel().metadata.model_dump() | changes))


# --- temperature ---


@pytest.mark.parametrize(
    ("seconds", "temperature"),
    [(0, 3.0), (0.99, 3.0), (1, 3.0), (1.5, 2.5), (2, 2.0), (3, 1.75), (5, 1.25), (6, 1), (900, 1)],
)
def test_temperature_is_interpolated(seconds, temperature):
    assert temperature_at(CURVE, seconds) == pytest.approx(temperature)


def test_one_point_is_a_constant():
    constant = Calibration(speech_seconds=(4.0,), temperature=(1.5,))
    assert [temperature_at(constant, s) for s in (0, 4, 100)] == [1.5, 1.5, 1.5]


def test_two_points_at_the_same_time_are_a_step():
    step = Calibration(speech_seconds=(1.0, 1.0), temperature=(3.0, 2.0))
    assert [temperature_at(step, s) for s in (0.5, 1.0, 2.0)] == [3.0, 2.0, 2.0]


# --- calibration ---


@pytest.mark.parametrize(
    ("posterior", "temperature", "expected"),
    [
        ([0.8, 0.2], 1.0, [0.8, 0.2]),
        ([0.8, 0.2], 2.0, [2 / 3, 1 / 3]),  # roots 4:1 -> 2:1
        ([0.8, 0.2], 0.5, [16 / 17, 1 / 17]),  # squares
        ([0.64, 0.32, 0.04], 2.0, [0.8 / (1.0 + 0.4 * math.sqrt(2)), None, None]),
        ([1.0, 0.0], 2.0, [1.0, 0.0]),
        ([0.0, 0.25, 0.75], 1.0, [0.0, 0.25, 0.75]),
    ],
)
def test_calibrated_against_values_by_hand(posterior, temperature, expected):
    result = calibrated(posterior, temperature)
    for value, exact in zip(result, expected, strict=True):
        assert exact is None or value == pytest.approx(exact, abs=1e-12)


probabilities = st.lists(
    st.one_of(st.just(0.0), st.floats(1e-30, 1.0)), min_size=2, max_size=8
).filter(lambda p: sum(p) > 0)


@given(weights=probabilities, temperature=st.floats(0.05, 20))
def test_calibrated_sums_to_one_and_keeps_the_order(weights, temperature):
    posterior = [w / sum(weights) for w in weights]
    result = calibrated(posterior, temperature)
    assert sum(result) == pytest.approx(1.0, abs=1e-9)
    assert all(0.0 <= p <= 1.0 for p in result)
    best = posterior.index(max(posterior))
    assert result[best] == max(result)
    for i, p in enumerate(posterior):
        for j, q in enumerate(posterior):
            if p < q:
                assert result[i] <= result[j]


@given(weights=probabilities)
def test_higher_temperature_is_less_confident(weights):
    posterior = [w / sum(weights) for w in weights]
    confidences = [max(calibrated(posterior, t)) for t in (0.5, 1.0, 2.0, 8.0)]
    assert confidences == sorted(confidences, reverse=True)


# --- decisions ---


def test_decided_tasks():
    gender, age_group, age_band = decider().decide(POSTERIORS, 5.0)
    assert (gender.label, gender.undecided) == ("female", None)
    assert gender.posterior == pytest.approx([0.8, 0.2])
    assert gender.confidence == pytest.approx(0.8)
    assert (age_group.label, age_group.confidence) == ("middle", pytest.approx(0.6))
    assert (age_band.label, age_band.confidence) == ("40s", pytest.approx(0.6))


def test_no_speech_is_uniform_and_undecided():
    for decision, classes in zip(decider().decide(None, 0.0), (2, 3, 4), strict=True):
        assert decision.posterior == [1 / classes] * classes
        assert decision.confidence == 1 / classes
        assert (decision.label, decision.undecided) == ("", Undecided.NO_SPEECH)


def test_little_speech_is_undecided():
    for decision in decider(min_speech=2.0).decide(POSTERIORS, 1.999):
        assert (decision.label, decision.undecided) == ("", Undecided.LITTLE_SPEECH)
        assert decision.confidence >= 0.6
    assert decider(min_speech=2.0).decide(POSTERIORS, 2.0)[0].label == "female"


def test_low_confidence_is_undecided():
    gender, age_group, age_band = decider(min_confidence=0.7).decide(POSTERIORS, 5.0)
    assert (gender.label, gender.undecided) == ("female", None)
    assert (age_group.label, age_group.undecided) == ("", Undecided.LOW_CONFIDENCE)
    assert (age_band.label, age_band.undecided) == ("", Undecided.LOW_CONFIDENCE)
    assert age_band.confidence == pytest.approx(0.6)


def test_threshold_applies_to_the_calibrated_confidence():
    hot = decider(temperature=((1.0,), (2.0,)), min_confidence=0.7)
    gender = hot.decide(POSTERIORS, 5.0)[0]
    assert gender.confidence == pytest.approx(2 / 3)
    assert (gender.label, gender.undecided) == ("", Undecided.LOW_CONFIDENCE)


def test_confidence_at_the_threshold_decides():
    assert decider(min_confidence=0.75).decide(([0.75, 0.25], *POSTERIORS[1:]), 5.0)[0].label


def test_temperature_follows_the_speech():
    cooling = decider(temperature=((1.0, 3.0), (2.0, 1.0)), min_confidence=0.0)
    confidences = [cooling.decide(POSTERIORS, s)[0].confidence for s in (1.0, 2.0, 3.0)]
    assert confidences == pytest.approx([2 / 3, 1 / (1 + 0.25 ** (1 / 1.5)), 0.8])


@pytest.mark.parametrize(
    ("requested", "decided"), [(0.0, True), (0.5, True), (1.5, True), (3.0, False)]
)
def test_requested_minimum_can_only_raise(requested, decided):
    result = decider(min_speech=1.0).decide(POSTERIORS, 2.0, requested)
    assert [bool(d.label) for d in result] == [decided] * 3
    below = decider(min_speech=1.0).decide(POSTERIORS, 0.9, requested)
    assert {d.undecided for d in below} == {Undecided.LITTLE_SPEECH}


def test_one_hot_posteriors_are_decided():
    one_hot = ([0.0, 1.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 0.0])
    hot = decider(temperature=((1.0,), (3.0,)))
    decisions = hot.decide(one_hot, 5.0)
    assert [d.label for d in decisions] == ["male", "senior", "teens"]
    assert [d.confidence for d in decisions] == [1.0, 1.0, 1.0]
