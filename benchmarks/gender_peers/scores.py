"""From answers to the figures of peers.py. No I/O; figures are finite or None.

A call without an answer is wrong in accuracy and recall. Intervals are of 95 %, by bootstrap over
speakers, see intervals.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from intervals import Floats, Interval, confusions, measures, percentiles, ratio, resampled

from gender_peers.calls import GENDERS

Scores = dict[str, Any]
LOWEST_THRESHOLD, HIGHEST_THRESHOLD = 100, 250


def tables(truth: Sequence[str], said: Sequence[str], persons: Sequence[str]) -> Floats:
    """Confusion matrices of the speakers, [speakers, 2, 3]; the last column is no answer."""
    return confusions(_indices(truth), _indices(said), persons, len(GENDERS))


def _indices(labels: Sequence[str]) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array([GENDERS.index(x) if x in GENDERS else -1 for x in labels], np.int64)


def score(truth: Sequence[str], said: Sequence[str], persons: Sequence[str]) -> Scores:
    """Figures of one peer in one condition.

    Args:
        truth: gender of each call.
        said: answer to each call, anything that is no gender being none.
        persons: who speaks in each call.

    Returns:
        ``n``, ``unanswered``, and ``accuracy``, ``f1`` (macro), ``accuracy_of_answered``,
        ``female_recall``, ``male_recall``, each {value, interval}.
    """
    each = tables(truth, said, persons)
    whole, drawn = each.sum(axis=0), resampled(each)
    values, draws = measures(whole), measures(drawn)
    right = np.trace(drawn, axis1=-2, axis2=-1)
    answered = ratio(right, drawn[..., : len(GENDERS)].sum(axis=(-2, -1)))
    given = whole[:, : len(GENDERS)].sum()
    result: Scores = {
        "n": len(truth),
        "unanswered": int(len(truth) - given),
        "accuracy": figure(values.accuracy, percentiles(draws.accuracy)),
        "f1": figure(values.f1, percentiles(draws.f1)),
        "accuracy_of_answered": figure(
            ratio(np.trace(whole), np.asarray(given)), percentiles(answered)
        ),
    }
    for index, name in enumerate(GENDERS):
        result[f"{name}_recall"] = figure(
            values.class_recall[index], percentiles(draws.class_recall[:, index])
        )
    return result


def figure(value: Any, interval: Interval) -> Scores:  # noqa: ANN401 - a float or an array of one
    """A figure with its interval, rounded to what a table can hold."""
    number = float(value)
    return {
        "value": round(number, 5) if np.isfinite(number) else None,
        "interval": [round(end, 5) for end in interval] if interval else None,
    }


def difference(
    truth: Sequence[str], ours: Sequence[str], theirs: Sequence[str], persons: Sequence[str]
) -> Scores:
    """How far we are ahead: ``accuracy`` and ``f1``, each {value, interval}.

    Both are scored on the same drawn speakers, so that what is hard for both cancels.
    """
    both = np.stack([tables(truth, said, persons) for said in (ours, theirs)], axis=1)
    values, draws = measures(both.sum(axis=0)), measures(resampled(both))
    return {
        name: figure(
            getattr(values, name)[0] - getattr(values, name)[1],
            percentiles(getattr(draws, name)[:, 0] - getattr(draws, name)[:, 1]),
        )
        for name in ("accuracy", "f1")
    }


def by_pitch(hertz: Sequence[float | None], threshold: float) -> list[str]:
    """Higher voices are female, none without a pitch."""
    return ["" if h is None else GENDERS[h <= threshold] for h in hertz]


def best_threshold(truth: Sequence[str], hertz: Sequence[float | None]) -> float:
    """The whole Hz with the best macro F1; the middle one of several."""
    alone = [""] * len(truth)  # one table for all: nothing is drawn here
    found = [
        float(measures(tables(truth, by_pitch(hertz, limit), alone).sum(axis=0)).f1)
        for limit in range(LOWEST_THRESHOLD, HIGHEST_THRESHOLD + 1)
    ]
    best = np.flatnonzero(np.array(found) >= max(found) - 1e-12)
    return float(LOWEST_THRESHOLD + best[len(best) // 2])
