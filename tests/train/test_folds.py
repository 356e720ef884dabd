"""Folds by speaker."""

import numpy as np
import pytest

from train.folds import speaker_folds


def test_a_speaker_is_in_one_fold_and_every_label_in_all():
    random = np.random.default_rng(1)
    speakers = [f"s{n}" for n in random.integers(0, 60, 700)]
    labels = np.array(["rare" if int(s[1:]) < 5 else "usual" for s in speakers])
    fold = speaker_folds(labels, speakers, 5, seed=3)
    assert {
        len({f for f, s in zip(fold, speakers, strict=True) if s == one}) for one in speakers
    } == {1}
    for number in range(5):
        assert set(labels[fold == number]) == {"rare", "usual"}
    assert not np.array_equal(fold, speaker_folds(labels, speakers, 5, seed=4))
    assert np.array_equal(fold, speaker_folds(labels, speakers, 5, seed=3))


def test_too_few_speakers_are_an_error_with_their_label():
    with pytest.raises(ValueError, match="label 'b': 1 speakers for 2 folds"):
        speaker_folds(["a", "a", "b", "b"], ["s1", "s2", "s3", "s3"], 2, seed=1)
