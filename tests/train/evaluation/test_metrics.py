import numpy as np
import pytest

from train.evaluation.metrics import expected_calibration_error, macro_scores


def test_macro_scores_by_hand():
    truth, predicted = np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1])
    scores = macro_scores(truth, predicted, ("a", "b", "c"))
    assert scores["precision"] == pytest.approx((1.0 + 0.5) / 2)
    assert scores["recall"] == pytest.approx((2 / 3 + 1.0) / 2)
    assert scores["f1"] == pytest.approx((0.8 + 2 / 3) / 2)
    assert scores["accuracy"] == 0.75
    assert scores["absent"] == ["c"]
    assert scores["per_class"]["a"]["n"] == 3


def test_predicting_an_absent_class_costs_recall_only():
    scores = macro_scores(np.array([0, 0]), np.array([0, 2]), ("a", "b", "c"))
    assert scores["recall"] == 0.5
    assert set(scores["per_class"]) == {"a"}


def test_nothing_to_score():
    scores = macro_scores(np.array([], int), np.array([], int), ("a", "b"))
    assert (scores["n"], scores["f1"], scores["absent"]) == (0, None, ["a", "b"])


def test_calibration_error_by_hand():
    confidence = np.array([0.95, 0.95, 0.55, 0.55])
    correct = np.array([True, True, True, False])
    assert expected_calibration_error(confidence, correct) == pytest.approx(0.05)
    assert expected_calibration_error(np.array([]), np.array([], bool)) == 0.0
    assert expected_calibration_error(np.array([1.0]), np.array([False])) == 1.0
