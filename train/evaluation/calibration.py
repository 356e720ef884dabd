"""Temperatures and decision thresholds, fitted on the dev split (Guo et al. 2017).

A student is over-confident in a different degree after half a second than after ten, so each
task has a temperature per amount of speech, interpolated between.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from model.labels import TASKS, LabelTree
from train.evaluation.evaluate import Running

SPEECH_SECONDS = (0.5, 1.0, 2.0, 3.0, 5.0, 10.0)
TARGET_ACCURACY = {"gender": 0.975, "age_group": 0.80, "age_band": 0.60}
"""Accuracy that decided calls should have on dev; the threshold is the lowest that reaches it."""
MIN_SPEECH_SECONDS = {"gender": 1.0, "age_group": 2.0, "age_band": 3.0}
FEWEST_DECIDED = 0.05
"""A threshold that decides fewer calls than this is noise: the highest sensible one is taken."""


def tempered(logp: NDArray[np.floating[Any]], temperature: float) -> NDArray[np.floating[Any]]:
    """Posteriors [n, classes] of log-posteriors at a temperature."""
    scaled = logp / temperature
    e = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    result: NDArray[np.floating[Any]] = e / e.sum(axis=1, keepdims=True)
    return result


def fit_temperature(logp: NDArray[np.floating[Any]], truth: NDArray[np.int64]) -> float:
    """Temperature of least negative log-likelihood, between 0.25 and 4."""

    def loss(log_t: float) -> float:
        p = tempered(logp, float(np.exp(log_t)))[np.arange(len(truth)), truth]
        return float(-np.log(np.maximum(p, 1e-12)).mean())

    best = minimize_scalar(loss, bounds=(np.log(0.25), np.log(4.0)), method="bounded")
    return float(np.exp(best.x))


def threshold_for(
    confidence: NDArray[np.floating[Any]], correct: NDArray[np.bool_], target: float
) -> float:
    """Lowest confidence above which decided calls are ``target`` accurate."""
    order = np.argsort(-confidence)
    accuracy = np.cumsum(correct[order]) / np.arange(1, len(order) + 1)
    fewest = max(1, int(FEWEST_DECIDED * len(order)))
    reached = np.flatnonzero(accuracy[fewest - 1 :] >= target) + fewest - 1
    last = int(reached[-1]) if len(reached) else fewest - 1
    return round(float(confidence[order[last]]), 3)


def calibrate(running: Running, tree: LabelTree) -> dict[str, Any]:
    """``calibration`` and ``decision`` of the model file's metadata, from the dev split."""
    calibration: dict[str, Any] = {}
    decision: dict[str, Any] = {}
    for task in TASKS:
        temperatures = [fit_temperature(*running.at(task, s)) for s in SPEECH_SECONDS]
        calibration[task] = {
            "speech_seconds": list(SPEECH_SECONDS),
            "temperature": [round(t, 3) for t in temperatures],
        }
        logp, truth = running.at(task, 3.0)
        posterior = tempered(logp, temperatures[SPEECH_SECONDS.index(3.0)])
        chance = 1.0 / len(tree.classes(task))
        threshold = threshold_for(
            posterior.max(axis=1), posterior.argmax(axis=1) == truth, TARGET_ACCURACY[task]
        )
        decision[task] = {
            "min_speech_seconds": MIN_SPEECH_SECONDS[task],
            "min_confidence": max(threshold, round(chance, 3)),
        }
    return {"calibration": calibration, "decision": decision}
