"""Planted label errors are found, by models that never heard the speaker."""

import numpy as np
import pytest

from train.label_quality.issues import judge, out_of_fold

OTHER = {"male": "female", "female": "male"}


def people(count=100, flips=10, seed=1):
    """Two overlapping clouds: features, labels with planted errors, speakers, the wrong ones."""
    random = np.random.default_rng(seed)
    wrong = set(random.choice(count, flips, replace=False).tolist())
    features, labels, speakers = [], [], []
    for n in range(count):
        gender = ("male", "female")[n % 2]
        centre = np.array([1.3, 0.8, 0.0]) * (1 if gender == "female" else -1)
        voice = centre + 0.6 * random.standard_normal(3)
        for _ in range(random.integers(1, 5)):
            features.append(voice + 0.4 * random.standard_normal(3))
            labels.append(OTHER[gender] if n in wrong else gender)
            speakers.append(f"s{n}")
    return np.array(features), labels, speakers, {f"s{n}" for n in wrong}


def test_planted_errors_are_found():
    features, labels, speakers, wrong = people()
    verdicts = judge(features, labels, speakers).verdicts
    assert len(verdicts) == 100
    flagged = {v.speaker for v in verdicts if v.flagged}
    assert len(flagged & wrong) / len(wrong) >= 0.9  # recall
    assert len(flagged & wrong) / len(flagged) >= 0.8  # precision
    for verdict in verdicts:
        assert 0 <= verdict.quality <= verdict.confidence <= 1
        if verdict.flagged:
            assert verdict.suggested == OTHER[verdict.given]


def test_clean_labels_are_left_alone():
    features, labels, speakers, _ = people(flips=0)
    verdicts = judge(features, labels, speakers).verdicts
    assert sum(v.flagged for v in verdicts) <= 2


def test_a_speaker_is_one_verdict_from_one_fold():
    features, labels, speakers, _ = people()
    verdicts = judge(features, labels, speakers, folds=4).verdicts
    assert sorted(v.speaker for v in verdicts) == sorted(set(speakers))
    assert {v.fold for v in verdicts} == {0, 1, 2, 3}
    assert sum(v.clips for v in verdicts) == len(speakers)


def test_nobody_is_judged_by_a_model_that_has_heard_them():
    """Features that only name the speaker: memory would agree with every label, ignorance not."""
    count = 40
    speakers = [f"s{n // 3}" for n in range(3 * count)]
    features = np.repeat(np.eye(count), 3, axis=0)
    labels = [("male", "female")[n // 3 % 2] for n in range(3 * count)]
    verdicts = judge(features, labels, speakers).verdicts
    assert max(v.quality for v in verdicts) < 0.75
    assert not any(v.flagged and v.confidence > 0.7 for v in verdicts)


def test_two_labels_of_a_speaker_are_judged_each_in_the_same_fold():
    features, labels, speakers, _ = people(flips=0)
    twice = [i for i, s in enumerate(speakers) if s == "s0"]
    features = np.concatenate([features, features[twice]])
    labels += ["female"] * len(twice)
    speakers += ["s0"] * len(twice)
    mine = [v for v in judge(features, labels, speakers).verdicts if v.speaker == "s0"]
    assert [(v.given, v.suggested) for v in mine] == [("female", "male"), ("male", "male")]
    assert len({v.fold for v in mine}) == 1


def test_without_label_or_voice_nobody_is_judged():
    features, labels, speakers, _ = people(flips=0)
    features[[i for i, s in enumerate(speakers) if s == "s1"], 0] = np.nan
    labels = ["" if s == "s2" else label for s, label in zip(speakers, labels, strict=True)]
    judged = {v.speaker for v in judge(features, labels, speakers).verdicts}
    assert judged == set(speakers) - {"s1", "s2"}


def test_rare_labels_are_skipped_and_said():
    features, labels, speakers, _ = people(flips=0)
    labels[0] = "other"
    judgement = judge(features, labels, speakers)
    assert judgement.skipped == {"other": "1 speakers, needs 10"}
    assert {v.given for v in judgement.verdicts} == {"male", "female"}


@pytest.mark.parametrize("labels", [["male"] * 30, [""] * 30])
def test_nothing_to_judge_is_said_not_raised(labels):
    judgement = judge(np.ones((30, 2)), labels, [f"s{n % 15}" for n in range(30)])
    assert judgement.verdicts == []
    assert "labels with enough speakers, needs 2" in judgement.skipped[""]


@pytest.mark.parametrize("folds", [1, 11])
def test_folds_have_bounds(folds):
    with pytest.raises(ValueError, match=f"folds: {folds} is not from 2 to 10"):
        judge(np.ones((2, 1)), ["a", "b"], ["s", "t"], folds=folds)


def test_probabilities_are_distributions_and_repeatable():
    features, labels, _, _ = people()
    truth = np.array([label == "male" for label in labels]).astype(int)
    fold = np.arange(len(truth)) % 3
    first = out_of_fold(features, truth, fold, np.ones(len(truth)), seed=1)
    np.testing.assert_allclose(first.sum(axis=1), 1)
    np.testing.assert_array_equal(
        first, out_of_fold(features, truth, fold, np.ones(len(truth)), seed=1)
    )
