"""Age classified within one corpus, where the corpus itself is no hint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pair = tuple[str, str]

CHILD_OR_20S: tuple[Pair, ...] = (("child", "20s"),)
LEAST_SPEAKERS = 5
"""Speakers that either band needs."""
ROUNDS = 2000
"""Resamplings of the speakers for an interval."""

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Interval:
    """A figure from 0 to 1 with its 95 % interval over resampled speakers."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class PairResult:
    """Two age bands separated within one corpus.

    Attributes:
        pair: the two bands.
        corpus: empty if no corpus has both.
        utterances: by band.
        speakers: by band.
        reason: why it could not be measured, else empty; then both figures are None.
        balanced_accuracy: mean recall of the two, the likelier of the two bands being taken.
        auc: probability that an utterance of the first band looks more like it than one of the
            second does.
    """

    pair: Pair
    corpus: str
    utterances: dict[str, int] = field(default_factory=dict)
    speakers: dict[str, int] = field(default_factory=dict)
    reason: str = ""
    balanced_accuracy: Interval | None = None
    auc: Interval | None = None


def within_corpus(
    posteriors: Floats,
    targets: NDArray[np.integer[Any]],
    corpora: Sequence[str],
    speakers: Sequence[str],
    classes: Sequence[str],
    *,
    pairs: Sequence[Pair] = CHILD_OR_20S,
    seed: int = 1,
) -> list[PairResult]:
    """Every pair in every corpus that has both bands; at least one entry a pair.

    Args:
        posteriors: [n, bands], age band, calibrated or not: only the order of two counts.
        targets: int [n], index into ``classes``; -1 where unknown.
        corpora: [n].
        speakers: [n], unique across corpora.
        classes: names of the bands.
        pairs: of bands.
        seed: of the resampling.

    Raises:
        ValueError: a band of a pair is no class; names it.
    """
    where, who = np.array(corpora, dtype=str), np.array(speakers, dtype=str)
    results = []
    for pair in pairs:
        for band in pair:
            if band not in classes:
                raise ValueError(f"pairs: {band!r} is none of {', '.join(classes)}")
        first, second = (list(classes).index(band) for band in pair)
        both = sorted(set(where[targets == first]) & set(where[targets == second]))
        if not both:
            results.append(PairResult(pair, "", reason=f"no corpus has both {' and '.join(pair)}"))
        for corpus in both:
            groups = [np.flatnonzero((where == corpus) & (targets == t)) for t in (first, second)]
            odds = _odds(posteriors, first, second)
            sizes = [len(set(who[g])) for g in groups]
            counted = (
                pair,
                str(corpus),
                {band: len(g) for band, g in zip(pair, groups, strict=True)},
                dict(zip(pair, sizes, strict=True)),
            )
            if min(sizes) < LEAST_SPEAKERS:
                few = pair[int(np.argmin(sizes))]
                why = f"{few}: {min(sizes)} speakers, needs {LEAST_SPEAKERS}"
                results.append(PairResult(*counted, reason=why))
                continue
            accuracy, auc = _figures([odds[g] for g in groups], [who[g] for g in groups], seed)
            results.append(PairResult(*counted, balanced_accuracy=accuracy, auc=auc))
    return results


def _odds(posteriors: Floats, first: int, second: int) -> Floats:
    """Above 0 where the first band is likelier; finite also for a posterior of zero."""
    tiny = np.finfo(np.float64).tiny
    a, b = (np.maximum(posteriors[:, c].astype(np.float64), tiny) for c in (first, second))
    odds: Floats = np.log(a) - np.log(b)
    return odds


def _figures(
    odds: Sequence[Floats], speakers: Sequence[NDArray[np.str_]], seed: int
) -> tuple[Interval, Interval]:
    """Balanced accuracy and AUC.

    Per pair of speakers the won comparisons are counted once; a resampling only weights them.

    Args:
        odds: of the utterances of the first band, and of the second.
        speakers: likewise.
        seed: of the resampling.
    """
    members = [np.unique(names, return_inverse=True)[1] for names in speakers]
    clips = [np.bincount(member).astype(np.float64) for member in members]
    # A tie between the two bands is half right.
    right = [
        np.bincount(member, 0.5 + 0.5 * np.sign(sign * values))
        for member, values, sign in zip(members, odds, (1, -1), strict=True)
    ]
    wins = 0.5 + 0.5 * np.sign(odds[0][:, None] - odds[1][None, :])
    between = np.zeros((len(clips[0]), len(clips[1])))
    np.add.at(between, (members[0][:, None], members[1][None, :]), wins)

    def both(weights: Sequence[Floats]) -> tuple[Floats, Floats]:
        totals = [w @ c for w, c in zip(weights, clips, strict=True)]
        recalls = [w @ r / t for w, r, t in zip(weights, right, totals, strict=True)]
        won = ((weights[0] @ between) * weights[1]).sum(axis=1)
        return (recalls[0] + recalls[1]) / 2, won / (totals[0] * totals[1])

    random = np.random.default_rng(seed)
    point = both([np.ones((1, len(c))) for c in clips])
    drawn = both(
        [
            random.multinomial(len(c), np.full(len(c), 1 / len(c)), ROUNDS).astype(float)
            for c in clips
        ]
    )
    made = []
    for value, values in zip(point, drawn, strict=True):
        low, high = np.quantile(values, (0.025, 0.975))
        made.append(Interval(float(value[0]), float(low), float(high)))
    return made[0], made[1]
