"""Is a stated confidence of 0.8 right eight times in ten? Over calls with speech and a known label.

A call without speech states no confidence and takes no part.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from intervals import Floats, by_speaker, percentiles, ratio, ratio_interval, resampled
from numpy.typing import NDArray

from scoring.calls import Outcome
from scoring.scores import Classes, Scores, final_choice
from train.evaluation.metrics import expected_calibration_error

RELIABILITY_BINS = 10
ERROR_BINS = 15
"""As ``train.evaluation.metrics.expected_calibration_error`` has them."""


def calibration(outcomes: Sequence[Outcome], classes: Classes, task: str) -> Scores:
    """How far the calibrated confidence of one task is from the share that is right.

    Returns:
        ``n``, ``speakers``; ``ece``, expected calibration error over 15 bins equally wide in
        confidence; ``confidence``, ``accuracy`` (means) and ``overconfidence``, the first less the
        second; ``interval`` of ece and overconfidence; ``bins`` of a reliability diagram: 10,
        empty ones left out, each with the interval of its accuracy. None where there is no call.
    """
    heard = [o for o in outcomes if o.final and o.final.speech_time and classes.truth(o, task)]
    if not heard:
        nothing = dict.fromkeys(("ece", "confidence", "accuracy", "overconfidence"))
        interval = dict.fromkeys(("ece", "overconfidence"))
        return {"n": 0, "speakers": 0, **nothing, "interval": interval, "bins": []}
    confidence = np.array([getattr(o.final, task).confidence for o in heard], np.float64)
    right = np.array([final_choice(o, task) == classes.truth(o, task) for o in heard], np.bool_)
    who = [o.plan.person for o in heard]
    ece = expected_calibration_error(confidence, right, ERROR_BINS)
    stated = by_speaker(who, _binned(confidence, right, ERROR_BINS))
    drawn = resampled(stated)
    totals = drawn.sum(axis=1)
    shown = by_speaker(who, _binned(confidence, right, RELIABILITY_BINS))
    return {
        "n": len(heard),
        "speakers": len(stated),
        "ece": ece,
        "confidence": float(confidence.mean()),
        "accuracy": float(right.mean()),
        "overconfidence": float(confidence.mean() - right.mean()),
        "interval": {
            "ece": _centred(_errors(drawn), ece),
            "overconfidence": percentiles(ratio(totals[:, 1] - totals[:, 2], totals[:, 0])),
        },
        "bins": [_bin(shown[:, b]) for b in range(RELIABILITY_BINS) if shown[:, b, 0].any()],
    }


def _binned(confidence: Floats, right: NDArray[np.bool_], bins: int) -> Floats:
    """[n, bins, 3]: one, confidence and whether right, in the bin of each call."""
    slot = np.minimum((confidence * bins).astype(int), bins - 1)
    rows = np.zeros((len(confidence), bins, 3))
    rows[np.arange(len(slot)), slot] = np.stack([np.ones(len(slot)), confidence, right], axis=1)
    return rows


def _errors(tables: Floats) -> Floats:
    """Expected calibration error of each of [..., bins, 3]."""
    gaps = np.abs(tables[..., 1] - tables[..., 2]).sum(axis=-1)
    return ratio(gaps, tables[..., 0].sum(axis=-1))


def _centred(draws: Floats, value: float) -> tuple[float, float] | None:
    """Interval of the draws, moved so that their mean is the value.

    An error of absolute differences grows with noise, and a resample is noisier than the sample:
    without the shift the interval may lie above the figure that it belongs to.
    """
    found = percentiles(draws - draws.mean() + value)
    return None if found is None else (max(0.0, found[0]), found[1])


def _bin(rows: Floats) -> Scores:
    """One dot of the diagram, from the counts of the speakers [speakers, 3]."""
    n, confidence, right = rows.sum(axis=0).tolist()
    return {
        "confidence": confidence / n,
        "accuracy": right / n,
        "n": int(n),
        "speakers": int((rows[:, 0] > 0).sum()),
        "interval": ratio_interval(rows[:, 2], rows[:, 0]),
    }
