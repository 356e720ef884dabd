"""95 % confidence intervals by bootstrap over speakers.

The calls of one speaker are correlated, so speakers are drawn with replacement and with all their
calls (a cluster bootstrap: Field and Welsh 2007); an interval over calls would be too narrow. The
draws are of counts: each speaker is first reduced to a confusion matrix, a draw is a weighted sum
of these, and a thousand draws are one matrix product.

The interval is the percentile interval of the draws (Efron 1979). It is None where the draws do
not vary: with one speaker, or where everything is right or wrong, resampling does not estimate
the variation between speakers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

DRAWS = 1000
LEVEL = 0.95
SEED = 1
_NUMBERS_PER_BATCH = 1 << 22
"""Random numbers drawn at a time: keeps memory below 100 MB for any number of speakers."""

Floats = NDArray[np.float64]
Ints = NDArray[np.integer[Any]]
Interval = tuple[float, float] | None


@dataclass(frozen=True)
class ScoreIntervals:
    """Intervals of what ``train.evaluation.metrics.macro_scores`` gives as figures.

    Attributes:
        accuracy: share of calls that are right.
        precision, recall, f1: macro averages over the classes that occur.
        class_recall: one for each class, None for one that does not occur.
    """

    accuracy: Interval
    precision: Interval
    recall: Interval
    f1: Interval
    class_recall: tuple[Interval, ...]


def by_speaker(speakers: Sequence[str], values: NDArray[Any]) -> Floats:
    """Sums of ``values`` [n, ...] over the rows of each speaker: [speakers, ...], by name."""
    names, member = np.unique(np.asarray(speakers, dtype=str), return_inverse=True)
    sums = np.zeros((len(names), *values.shape[1:]))
    np.add.at(sums, member, values)
    return sums


def confusions(truth: Ints, predicted: Ints, speakers: Sequence[str], classes: int) -> Floats:
    """Confusion matrices of the speakers.

    Args:
        truth: int [n], 0 to classes - 1.
        predicted: int [n], likewise, or -1 for no answer.
        speakers: [n], unique across corpora.
        classes: how many.

    Returns:
        [speakers, classes, classes + 1]: truth by row; the last column is no answer.
    """
    names, member = np.unique(np.asarray(speakers, dtype=str), return_inverse=True)
    counts = np.zeros((len(names), classes, classes + 1))
    np.add.at(counts, (member, truth, np.where(predicted < 0, classes, predicted)), 1)
    return counts


def resampled(per_speaker: NDArray[Any], *, draws: int = DRAWS, seed: int = SEED) -> Floats:
    """Sums over drawn speakers.

    Args:
        per_speaker: [speakers, ...], of which a speaker drawn twice counts twice.
        draws: how many; each draws as many speakers as there are.
        seed: of the drawing; the same one gives the same bits.

    Returns:
        [draws, ...]

    Raises:
        ValueError: there is no speaker.
    """
    count = len(per_speaker)
    if not count:
        raise ValueError("per_speaker: no speaker to draw")
    random = np.random.default_rng(seed)
    flat = per_speaker.reshape(count, -1).astype(np.float64)
    sums = []
    step = max(1, _NUMBERS_PER_BATCH // count)
    for start in range(0, draws, step):
        rows = min(step, draws - start)
        drawn = random.integers(0, count, (rows, count)) + count * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)
        sums.append(times.astype(np.float64) @ flat)
    return np.concatenate(sums).reshape(draws, *per_speaker.shape[1:])


def percentiles(values: Floats, level: float = LEVEL) -> Interval:
    """The interval that holds the middle ``level`` of the draws; NaN draws are left out."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return None
    low, high = np.quantile(finite, ((1 - level) / 2, (1 + level) / 2))
    return None if low == high else (float(low), float(high))


def ratio(parts: NDArray[Any], wholes: NDArray[Any]) -> Floats:
    """``parts`` / ``wholes``, NaN where the whole is nothing."""
    out = np.full(np.broadcast_shapes(parts.shape, wholes.shape), np.nan)
    np.divide(parts, wholes, out=out, where=wholes > 0)
    return out


def ratio_interval(
    parts: NDArray[Any], wholes: NDArray[Any], *, draws: int = DRAWS, seed: int = SEED
) -> Interval:
    """Interval of a share: the sum of ``parts`` [speakers] over that of ``wholes`` [speakers]."""
    if not len(parts):
        return None
    sums = resampled(np.stack([parts, wholes], axis=1), draws=draws, seed=seed)
    return percentiles(ratio(sums[:, 0], sums[:, 1]))


@dataclass(frozen=True)
class Measures:
    """Figures of confusion matrices; arrays have the matrices' leading axes.

    Attributes:
        accuracy: NaN where there is no call.
        precision, recall, f1: macro averages over the classes that occur.
        class_recall: [..., classes], NaN for a class that does not occur.
    """

    accuracy: Floats
    precision: Floats
    recall: Floats
    f1: Floats
    class_recall: Floats


def measures(tables: Floats) -> Measures:
    """Figures of confusion matrices [..., classes, classes + 1], see :func:`confusions`.

    As ``train.evaluation.metrics.macro_scores`` counts: a class that is never predicted has
    precision and F1 of zero, one that does not occur is left out of the averages.
    """
    classes = tables.shape[-2]
    hits = np.diagonal(tables, axis1=-2, axis2=-1)
    occur = tables.sum(axis=-1)
    predicted = tables.sum(axis=-2)[..., :classes]
    present = occur > 0
    precision = np.where(predicted > 0, ratio(hits, predicted), 0.0)
    f1 = ratio(2 * hits, occur + predicted)
    recall = ratio(hits, occur)

    def macro(values: Floats) -> Floats:
        return ratio(np.where(present, values, 0.0).sum(axis=-1), present.sum(axis=-1))

    return Measures(
        accuracy=ratio(hits.sum(axis=-1), occur.sum(axis=-1)),
        precision=macro(precision),
        recall=macro(recall),
        f1=macro(f1),
        class_recall=recall,
    )


def score_intervals(tables: Floats, *, draws: int = DRAWS, seed: int = SEED) -> ScoreIntervals:
    """Intervals of accuracy, macro scores and the recall of each class.

    A draw in which a class happens to have no speaker averages over the others.

    Args:
        tables: [speakers, classes, classes + 1], see :func:`confusions`.
        draws: how many.
        seed: of the drawing.
    """
    classes = tables.shape[1]
    if not len(tables):
        return ScoreIntervals(None, None, None, None, (None,) * classes)
    drawn = measures(resampled(tables, draws=draws, seed=seed))
    return ScoreIntervals(
        accuracy=percentiles(drawn.accuracy),
        precision=percentiles(drawn.precision),
        recall=percentiles(drawn.recall),
        f1=percentiles(drawn.f1),
        class_recall=tuple(percentiles(drawn.class_recall[:, c]) for c in range(classes)),
    )
