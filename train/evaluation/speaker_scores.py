"""Scores of labelled calls with bootstrap intervals over speakers; plain values for JSON.

Every number is finite or None. An interval is (low, high), None where the draws do not vary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train.evaluation.intervals import (
    Floats,
    Ints,
    by_speaker,
    confusions,
    percentiles,
    ratio,
    ratio_interval,
    resampled,
    score_intervals,
)
from train.evaluation.metrics import expected_calibration_error, macro_scores

RELIABILITY_BINS = 10
ECE_BINS = 15
BRIEF = ("accuracy", "recall", "f1")

Scores = dict[str, Any]


def speaker_scores(
    truth: Ints, predicted: Ints, speakers: Sequence[str], names: Sequence[str]
) -> Scores:
    """Compute macro scores of calls with their intervals.

    Args:
        truth: class indices [n].
        predicted: class indices [n], -1 for no prediction, which is wrong.
        speakers: [n], unique across corpora.
        names: of the classes.

    Returns:
        The figures of ``macro_scores``, and ``speakers``, ``interval`` and ``confusion``: how
        often each class that occurs was taken for which; the empty name is no prediction.
    """
    tables = confusions(truth, predicted, speakers, len(names))
    found = score_intervals(tables)
    scores = {
        **macro_scores(truth, predicted, names),
        "speakers": len(tables),
        "interval": {key: getattr(found, key) for key in ("precision", "recall", "f1", "accuracy")},
    }
    for name, at in scores["per_class"].items():
        index = list(names).index(name)
        at["speakers"] = int((tables[:, index].sum(axis=1) > 0).sum())
        at["interval"] = {"recall": found.class_recall[index]}
    total = tables.sum(axis=0).astype(int).tolist()
    scores["confusion"] = {
        name: {choice: n for choice, n in zip((*names, ""), row, strict=True) if n}
        for name, row in zip(names, total, strict=True)
        if sum(row)
    }
    return scores


def brief(scores: Scores) -> Scores:
    """Reduce scores to ``n``, ``speakers``, accuracy, macro recall and F1 with intervals."""
    kept = {key: scores[key] for key in ("n", "speakers", *BRIEF)}
    return {**kept, "interval": {key: scores["interval"][key] for key in BRIEF}}


def recall_of(scores: Scores, name: str) -> Scores:
    """Return ``recall``, ``n``, ``speakers`` and ``interval`` of one class, absent or not."""
    at = scores["per_class"].get(name)
    if at is None:
        return {"recall": None, "n": 0, "speakers": 0, "interval": None}
    plain = {key: at[key] for key in ("recall", "n", "speakers")}
    return {**plain, "interval": at["interval"]["recall"]}


def calibration(confidence: Floats, right: NDArray[np.bool_], speakers: Sequence[str]) -> Scores:
    """Compare calibrated confidences with the share that is right.

    Args:
        confidence: [n], 0 to 1.
        right: [n].
        speakers: [n], unique across corpora.

    Returns:
        ``n``, ``speakers``; ``ece``, expected calibration error over 15 bins equally wide in
        confidence (Guo et al. 2017); ``confidence``, ``accuracy`` (means) and ``overconfidence``,
        the first less the second; ``interval`` of ece and overconfidence; ``bins`` of a
        reliability diagram: 10, without the empty ones, each with the interval of its accuracy.
        Figures are None if there is no call.
    """
    if not len(confidence):
        nothing = dict.fromkeys(("ece", "confidence", "accuracy", "overconfidence"))
        interval = dict.fromkeys(("ece", "overconfidence"))
        return {"n": 0, "speakers": 0, **nothing, "interval": interval, "bins": []}
    ece = expected_calibration_error(confidence, right, ECE_BINS)
    ece_bins = by_speaker(speakers, _binned(confidence, right, ECE_BINS))
    drawn = resampled(ece_bins)
    totals = drawn.sum(axis=1)
    gaps = np.abs(drawn[..., 1] - drawn[..., 2]).sum(axis=-1)
    shown = by_speaker(speakers, _binned(confidence, right, RELIABILITY_BINS))
    return {
        "n": len(confidence),
        "speakers": len(ece_bins),
        "ece": ece,
        "confidence": float(confidence.mean()),
        "accuracy": float(right.mean()),
        "overconfidence": float(confidence.mean() - right.mean()),
        "interval": {
            "ece": _centred(ratio(gaps, drawn[..., 0].sum(axis=-1)), ece),
            "overconfidence": percentiles(ratio(totals[:, 1] - totals[:, 2], totals[:, 0])),
        },
        "bins": [_bin(shown[:, b]) for b in range(RELIABILITY_BINS) if shown[:, b, 0].any()],
    }


def _binned(confidence: Floats, right: NDArray[np.bool_], bins: int) -> Floats:
    """Put one, the confidence and whether it is right into the bin of each call: [n, bins, 3]."""
    slot = np.minimum((confidence * bins).astype(int), bins - 1)
    rows = np.zeros((len(confidence), bins, 3))
    rows[np.arange(len(slot)), slot] = np.stack([np.ones(len(slot)), confidence, right], axis=1)
    return rows


def _centred(draws: Floats, value: float) -> tuple[float, float] | None:
    """Return the interval of the draws, moved so that their mean is the value.

    A mean of absolute differences grows with noise, and a resample is noisier than the sample:
    without the shift the interval could lie above the figure that it belongs to.
    """
    found = percentiles(draws - draws.mean() + value)
    return None if found is None else (max(0.0, found[0]), found[1])


def _bin(rows: Floats) -> Scores:
    """Summarise one bin of a reliability diagram, from the counts of its speakers [speakers, 3]."""
    n, confidence, right = rows.sum(axis=0).tolist()
    return {
        "confidence": confidence / n,
        "accuracy": right / n,
        "n": int(n),
        "speakers": int((rows[:, 0] > 0).sum()),
        "interval": ratio_interval(rows[:, 2], rows[:, 0]),
    }
