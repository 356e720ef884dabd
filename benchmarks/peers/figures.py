"""Figures of the gender comparison. No I/O; numbers are finite or None.

A call without an answer is wrong in accuracy and recall. Intervals are of 95 %, by bootstrap over
speakers; differences are between the same drawn speakers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from train.evaluation.intervals import (
    Floats,
    Interval,
    confusions,
    measures,
    percentiles,
    ratio,
    resampled,
)

Row = dict[str, Any]
GENDERS = ("female", "male")
THRESHOLDS_HERTZ = range(100, 251)


def tables(truth: Sequence[str], answers: Sequence[str], speakers: Sequence[str]) -> Floats:
    """Count confusions of the speakers, [speakers, 2, 3]; the last column is no answer."""
    true, answered = (
        np.array([GENDERS.index(x) if x in GENDERS else -1 for x in labels], np.int64)
        for labels in (truth, answers)
    )
    return confusions(true, answered, speakers, len(GENDERS))


def _figure(value: Any, interval: Interval) -> Row:  # noqa: ANN401 - a float or an array of one
    number = float(value)
    return {
        "value": round(number, 5) if np.isfinite(number) else None,
        "interval": [round(end, 5) for end in interval] if interval else None,
    }


def score(truth: Sequence[str], answers: Sequence[str], speakers: Sequence[str]) -> Row:
    """Score one system in one condition.

    Args:
        truth: gender of each call.
        answers: to each call; anything that is no gender is no answer.
        speakers: of each call.

    Returns:
        ``n``, ``unanswered``, and ``accuracy``, ``f1`` (macro), ``accuracy_of_answered``,
        ``female_recall``, ``male_recall``, each {value, interval}.
    """
    each = tables(truth, answers, speakers)
    whole, drawn = each.sum(axis=0), resampled(each)
    values, draws = measures(whole), measures(drawn)
    right = np.trace(drawn, axis1=-2, axis2=-1)
    answered = ratio(right, drawn[..., : len(GENDERS)].sum(axis=(-2, -1)))
    given = whole[:, : len(GENDERS)].sum()
    recalls = {
        f"{name}_recall": _figure(values.class_recall[n], percentiles(draws.class_recall[:, n]))
        for n, name in enumerate(GENDERS)
    }
    return {
        "n": len(truth),
        "unanswered": int(len(truth) - given),
        "accuracy": _figure(values.accuracy, percentiles(draws.accuracy)),
        "f1": _figure(values.f1, percentiles(draws.f1)),
        "accuracy_of_answered": _figure(
            ratio(np.trace(whole), np.asarray(given)), percentiles(answered)
        ),
        **recalls,
    }


def difference(
    truth: Sequence[str], ours: Sequence[str], theirs: Sequence[str], speakers: Sequence[str]
) -> Row:
    """Compute ours less theirs: ``accuracy`` and ``f1``, each {value, interval}."""
    both = np.stack([tables(truth, answers, speakers) for answers in (ours, theirs)], axis=1)
    values, draws = measures(both.sum(axis=0)), measures(resampled(both))
    return {
        name: _figure(np.subtract(*value), percentiles(drawn[:, 0] - drawn[:, 1]))
        for name in ("accuracy", "f1")
        for value, drawn in [(getattr(values, name), getattr(draws, name))]
    }


def by_pitch(hertz: Sequence[float | None], threshold: float) -> list[str]:
    """Answer female above the threshold, male up to it, nothing without a pitch."""
    return ["" if h is None else GENDERS[h <= threshold] for h in hertz]


def best_threshold(truth: Sequence[str], hertz: Sequence[float | None]) -> float:
    """Return the whole Hz with the best macro F1; the middle one of several."""
    alone = [""] * len(truth)  # one table for all: nothing is drawn here
    found = [
        float(measures(tables(truth, by_pitch(hertz, limit), alone).sum(axis=0)).f1)
        for limit in THRESHOLDS_HERTZ
    ]
    best = np.flatnonzero(np.array(found) >= max(found) - 1e-12)
    return float(THRESHOLDS_HERTZ[best[len(best) // 2]])


def findings(rows: Sequence[Row], conditions: Sequence[str]) -> Row:
    """Compare ours with the best peer by macro F1, by condition; the keys are documented there."""
    found: Row = {"did_not_run": [row["key"] for row in rows if row["reason"]]}
    ran = {row["key"]: row["conditions"] for row in rows if not row["reason"]}
    for condition in conditions:
        f1 = {key: ran[key][condition]["f1"]["value"] for key in ran if "ours" not in key}
        own = ran["ours"][condition]["f1"]["value"] if "ours" in ran else None
        best = max(f1, key=f1.__getitem__, default=None)
        lead = ran[best][condition]["ours_ahead"] if best else None
        found[condition] = {
            "ours_f1": own,
            "best_peer": best,
            "best_peer_f1": f1[best] if best else None,
            "lead": lead["f1"] if lead else None,
            "ahead_of_all": own > f1[best] if own is not None and best else None,
        }
    return found
