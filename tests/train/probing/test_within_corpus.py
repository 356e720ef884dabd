"""Age inside one corpus: values by hand, intervals over speakers, and what cannot be measured."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from train.probing.within_corpus import Interval, within_corpus

CLASSES = ("child", "teens", "20s")


def crowd(shift, people=8, clips=4, seed=1, corpus="a"):
    random = np.random.default_rng(seed)
    rows, targets, corpora, speakers = [], [], [], []
    for target, sign in ((0, 1), (2, -1)):
        for person in range(people):
            own = sign * shift + random.standard_normal()
            for _ in range(clips + person % 3):
                odds = np.exp(own + 0.5 * random.standard_normal())
                rows.append(np.array([odds, 0.5, 1.0]) / (odds + 1.5))
                targets.append(target)
                corpora.append(corpus)
                speakers.append(f"{corpus}/{target}-{person}")
    return np.array(rows), np.array(targets), corpora, speakers


def test_figures_are_scikit_learns():
    rows, targets, corpora, speakers = crowd(0.7)
    (result,) = within_corpus(rows, targets, corpora, speakers, CLASSES)
    child = targets == 0
    share = rows[:, 0] / (rows[:, 0] + rows[:, 2])
    assert result.auc.value == pytest.approx(roc_auc_score(child, share))
    expected = balanced_accuracy_score(child, share > 0.5)
    assert result.balanced_accuracy.value == pytest.approx(expected)
    assert result.pair == ("child", "20s")
    assert result.speakers == {"child": 8, "20s": 8}
    assert sum(result.utterances.values()) == len(rows)


def test_interval_is_over_speakers_not_clips():
    few = crowd(0.7, clips=2)
    many = crowd(0.7, clips=60)
    widths = []
    for rows, targets, corpora, speakers in (few, many):
        (result,) = within_corpus(rows, targets, corpora, speakers, CLASSES)
        assert result.auc.low < result.auc.value < result.auc.high
        widths.append(result.auc.high - result.auc.low)
    assert widths[1] > 0.6 * widths[0]  # thirty times the clips, the same people


def test_perfect_and_blind():
    (perfect,) = within_corpus(*crowd(30.0), CLASSES)
    assert perfect.balanced_accuracy == perfect.auc == Interval(1.0, 1.0, 1.0)
    rows, targets, corpora, speakers = crowd(1.0)
    (blind,) = within_corpus(np.zeros_like(rows), targets, corpora, speakers, CLASSES)
    assert blind.balanced_accuracy.value == blind.auc.value == 0.5


def test_only_inside_a_corpus():
    """Corpus a all children, corpus b all adults, told apart perfectly: no age shown by that."""
    rows, targets, _, speakers = crowd(30.0)
    corpora = ["a" if t == 0 else "b" for t in targets]
    (result,) = within_corpus(rows, targets, corpora, speakers, CLASSES)
    assert result.corpus == ""
    assert result.reason == "no corpus has both child and 20s"
    assert result.auc is None


def test_too_few_speakers_are_said():
    (result,) = within_corpus(*crowd(1.0, people=4), CLASSES)
    assert result.reason == "child: 4 speakers, needs 5"
    assert (result.balanced_accuracy, result.auc) == (None, None)


def test_every_corpus_and_every_pair_has_an_entry():
    parts = [crowd(1.0, corpus=c) for c in ("a", "b")]
    rows, targets = (np.concatenate([p[i] for p in parts]) for i in (0, 1))
    corpora, speakers = (parts[0][i] + parts[1][i] for i in (2, 3))
    pairs = (("child", "20s"), ("teens", "20s"))
    results = within_corpus(rows, targets, corpora, speakers, CLASSES, pairs=pairs)
    assert [(r.pair[0], r.corpus) for r in results] == [
        ("child", "a"),
        ("child", "b"),
        ("teens", ""),
    ]


def test_a_foreign_band_is_named():
    with pytest.raises(ValueError, match="pairs: 'senior' is none of child, teens, 20s"):
        within_corpus(*crowd(1.0), CLASSES, pairs=[("child", "senior")])
