"""Bootstrap intervals against cases worked out by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from train.evaluation import intervals
from train.evaluation.metrics import macro_scores


def tables(rows):
    """One confusion matrix a speaker, of (truth, predicted, speaker)."""
    truth, predicted, speakers = zip(*rows, strict=True)
    return intervals.confusions(np.array(truth), np.array(predicted), speakers, 2)


def test_confusions_by_speaker_in_order_of_their_names():
    made = tables([(0, 0, "b"), (0, 1, "a"), (1, -1, "b"), (0, 0, "b")])
    assert made.tolist() == [[[0, 1, 0], [0, 0, 0]], [[2, 0, 0], [0, 0, 1]]]


def test_by_speaker_adds_rows():
    sums = intervals.by_speaker(["b", "a", "b"], np.array([[1, 2], [3, 4], [5, 6]]))
    assert sums.tolist() == [[3, 4], [6, 8]]


def test_measures_are_those_of_macro_scores():
    random = np.random.default_rng(3)
    for _ in range(20):
        truth, predicted = random.integers(0, 3, 30), random.integers(-1, 4, 30)
        scores = macro_scores(truth, predicted, "abcd")  # class d never occurs
        table = intervals.confusions(truth, predicted, ["s"] * 30, 4).sum(axis=0)
        found = intervals.measures(table)
        for key in ("accuracy", "precision", "recall", "f1"):
            assert float(getattr(found, key)) == pytest.approx(scores[key])
        assert [float(r) for r in found.class_recall[:3]] == pytest.approx(
            [scores["per_class"][name]["recall"] for name in "abc"]
        )
        assert np.isnan(found.class_recall[3])


def test_measures_of_a_whole_stack_at_once():
    stack = tables([(0, 0, "a"), (1, 0, "a"), (1, 1, "b")])
    together = intervals.measures(stack)
    assert together.accuracy.tolist() == [0.5, 1.0]
    assert together.recall.tolist() == [0.5, 1.0]
    assert together.f1.tolist() == [pytest.approx(1 / 3), 1.0]  # b has no class 0


def test_two_speakers_are_drawn_in_four_ways():
    # One always right, one always wrong: accuracy is 0, 1/2 or 1, with weights 1, 2 and 1.
    drawn = intervals.resampled(tables([(0, 0, "a"), (0, 1, "b")]), draws=4000)
    accuracy = intervals.measures(drawn).accuracy
    values, counts = np.unique(accuracy, return_counts=True)
    assert values.tolist() == [0.0, 0.5, 1.0]
    assert counts / 4000 == pytest.approx([0.25, 0.5, 0.25], abs=0.03)
    assert intervals.percentiles(accuracy) == (0.0, 1.0)


def test_three_speakers_against_all_27_draws():
    per_speaker = tables([(0, 0, "a"), (1, 0, "a"), (0, 1, "b"), (1, 1, "c"), (1, 1, "c")])
    every = np.stack(
        [per_speaker[list(who)].sum(axis=0) for who in itertools.product(range(3), repeat=3)]
    )
    exact = intervals.measures(every)
    drawn = intervals.measures(intervals.resampled(per_speaker, draws=20000))
    for name in ("accuracy", "precision", "recall", "f1"):
        expected, found = getattr(exact, name), getattr(drawn, name)
        assert found.mean() == pytest.approx(expected.mean(), abs=0.01)
        assert set(found.round(9)) == set(expected.round(9))


def test_many_speakers_of_one_call_are_a_binomial():
    # Normal approximation of a share of 0.8 over 2500: 0.8 -+ 1.96 sqrt(0.16 / 2500).
    right = (np.arange(2500) % 5 > 0).astype(float)
    low, high = intervals.ratio_interval(right, np.ones(2500), draws=4000)
    half = 1.96 * np.sqrt(0.8 * 0.2 / 2500)
    assert (low, high) == pytest.approx((0.8 - half, 0.8 + half), abs=0.0015)


def test_calls_of_a_speaker_stay_together():
    # Ten calls each that are all alike are worth one: the interval is that of the speakers.
    right = (np.arange(100) % 2).astype(float)
    alone = intervals.ratio_interval(right, np.ones(100))
    tenfold = intervals.ratio_interval(10 * right, np.full(100, 10.0))
    assert alone == tenfold
    as_if_independent = intervals.ratio_interval(np.repeat(right, 10), np.ones(1000))
    width = [high - low for low, high in (tenfold, as_if_independent)]
    assert width[0] == pytest.approx(width[1] * np.sqrt(10), rel=0.15)


def test_interval_covers_the_truth_as_often_as_it_says():
    random = np.random.default_rng(7)
    covered = 0
    for seed in range(300):
        skill = random.beta(4, 2, 80)  # of each speaker; mean 2/3
        right = random.binomial(5, skill)
        low, high = intervals.ratio_interval(right, np.full(80, 5), draws=400, seed=seed)
        covered += low <= 2 / 3 <= high
    assert 0.91 <= covered / 300 <= 0.98


@pytest.mark.parametrize(
    "rows",
    [
        [(0, 0, "a"), (0, 1, "a"), (1, 1, "a")],  # one speaker
        [(0, 0, "a"), (1, 1, "b"), (0, 0, "c")],  # all right
    ],
)
def test_no_interval_where_the_draws_do_not_vary(rows):
    found = intervals.score_intervals(tables(rows))
    assert (found.accuracy, found.f1, found.class_recall) == (None, None, (None, None))


def test_a_class_that_does_not_occur_has_no_interval():
    found = intervals.score_intervals(tables([(0, 0, "a"), (0, 1, "b"), (0, 0, "c")]))
    assert found.class_recall[1] is None
    assert found.class_recall[0] == found.recall == found.accuracy


def test_nothing_has_no_interval():
    found = intervals.score_intervals(np.zeros((0, 3, 4)))
    assert found.accuracy is None
    assert found.class_recall == (None, None, None)
    assert intervals.ratio_interval(np.zeros(0), np.zeros(0)) is None
    assert intervals.percentiles(np.array([np.nan])) is None
    with pytest.raises(ValueError, match="per_speaker: no speaker"):
        intervals.resampled(np.zeros((0, 2)))


def test_a_draw_without_a_class_averages_over_the_others():
    # Class 1 has one speaker, always right; class 0 is never right. Where c is not drawn, macro
    # recall is 0, else 1/2: never NaN, and nothing in between.
    per_speaker = tables([(0, 1, "a"), (0, 1, "b"), (1, 1, "c")])
    drawn = intervals.measures(intervals.resampled(per_speaker)).recall
    assert set(drawn.tolist()) == {0.0, 0.5, 1.0}  # 1: c alone, thrice
    assert intervals.score_intervals(per_speaker).class_recall == (None, None)


def test_seed_and_chunks(monkeypatch):
    per_speaker = np.random.default_rng(1).integers(0, 5, (40, 2, 3))
    whole = intervals.resampled(per_speaker)
    assert np.array_equal(whole, intervals.resampled(per_speaker))
    assert not np.array_equal(whole, intervals.resampled(per_speaker, seed=2))
    monkeypatch.setattr(intervals, "_NUMBERS_PER_BATCH", 1000)
    assert np.array_equal(whole, intervals.resampled(per_speaker))
