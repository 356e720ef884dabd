import numpy as np
import pytest

from model.labels import DEFAULT_TREE, TASKS
from streamer.inference.decision import calibrated
from train.evaluation.calibration import (
    SPEECH_SECONDS,
    calibrate,
    fit_temperature,
    tempered,
    threshold_for,
)
from train.evaluation.evaluate import Running


def overconfident(random, n, classes, temperature):
    """Log-posteriors that are right as often as their softened form says."""
    logits = random.normal(0, 1, (n, classes))
    honest = tempered(logits, 1.0)
    truth = np.array([random.choice(classes, p=p) for p in honest])
    return (logits * temperature).astype(np.float32), truth


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_fitted_temperature_recovers_the_true_one(temperature):
    logp, truth = overconfident(np.random.default_rng(0), 4000, 4, temperature)
    assert fit_temperature(logp, truth) == pytest.approx(temperature, rel=0.1)


def test_training_and_serving_soften_alike():
    logp = np.log(np.array([[0.7, 0.2, 0.1]]))
    assert calibrated([0.7, 0.2, 0.1], 2.0) == pytest.approx(tempered(logp, 2.0)[0].tolist())


def test_threshold_is_the_lowest_that_reaches_the_target():
    confidence = np.linspace(0.5, 0.99, 100)
    correct = confidence > 0.7
    threshold = threshold_for(confidence, correct, 0.9)
    decided = confidence >= threshold
    assert correct[decided].mean() == pytest.approx(0.9, abs=0.02)
    assert decided.sum() > correct.sum()


def test_unreachable_target_leaves_the_most_confident():
    threshold = threshold_for(np.linspace(0, 1, 100), np.zeros(100, bool), 0.9)
    assert threshold > 0.9


def test_calibrate_gives_the_metadata_of_every_task():
    random = np.random.default_rng(1)
    logp, targets = {}, {}
    for task in TASKS:
        rows, truth = overconfident(random, 300, len(DEFAULT_TREE.classes(task)), 2.0)
        logp[task] = [np.repeat(row[None], 70, axis=0) for row in rows]
        targets[task] = truth
    result = calibrate(Running(logp, targets), DEFAULT_TREE)
    for task in TASKS:
        assert result["calibration"][task]["speech_seconds"] == list(SPEECH_SECONDS)
        assert result["calibration"][task]["temperature"] == pytest.approx([2.0] * 6, rel=0.35)
        assert 0 < result["decision"][task]["min_confidence"] <= 1
