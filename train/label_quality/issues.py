"""Which labels contradict the voice: confident learning on out-of-fold probabilities by speaker.

Two unlike classifiers (linear, boosted trees) see features that no label has touched; each clip
is judged by models that were not trained on its speaker. The clips of a speaker are averaged,
because a speaker has one gender and one age, and cleanlab decides which labels are probably wrong
(Northcutt et al. 2021, "Confident learning").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from train.folds import speaker_folds

Filter = Literal["both", "confident_learning", "prune_by_noise_rate", "predicted_neq_given"]
"""How cleanlab picks issues, from few and sure to all that differ."""
LEAST_SPEAKERS = 10
"""Speakers that a label needs before anybody is judged by it."""

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Verdict:
    """What the voice suggests about one label of one speaker.

    Attributes:
        speaker: as given to :func:`judge`.
        given: label in the corpus.
        suggested: likeliest label by voice.
        confidence: probability of ``suggested``, 0 to 1.
        quality: probability of ``given``, 0 to 1; cleanlab's self-confidence.
        flagged: probably wrong.
        clips: that could be judged.
        fold: in which the speaker was held out.
    """

    speaker: str
    given: str
    suggested: str
    confidence: float
    quality: float
    flagged: bool
    clips: int
    fold: int


@dataclass(frozen=True)
class Judgement:
    """All verdicts of one task; ``skipped`` is label or "" for everything -> why not judged."""

    verdicts: list[Verdict] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


def judge(
    features: Floats,
    labels: Sequence[str],
    speakers: Sequence[str],
    *,
    folds: int = 5,
    seed: int = 1,
    method: Filter = "both",
) -> Judgement:
    """Judge every label of every speaker.

    Args:
        features: [n, F], a row a clip; a row with NaN cannot be judged.
        labels: [n]; empty where there is none to judge.
        speakers: [n]. Someone with two labels is judged under each by the clips that carry it.
        folds: of the cross-validation, 2 to :data:`LEAST_SPEAKERS`.
        seed: of folds and trees.
        method: how cleanlab picks issues.

    Raises:
        ValueError: ``folds`` is out of range.
    """
    if not 2 <= folds <= LEAST_SPEAKERS:
        raise ValueError(f"folds: {folds} is not from 2 to {LEAST_SPEAKERS}")
    given, names = np.array(labels, dtype=object), np.array(speakers, dtype=object)
    usable = np.isfinite(features).all(axis=1) & (given != "")
    people = {g: len(set(names[usable & (given == g)])) for g in sorted(set(given[usable]))}
    skipped = {
        label: f"{count} speakers, needs {LEAST_SPEAKERS}"
        for label, count in people.items()
        if count < LEAST_SPEAKERS
    }
    classes = [label for label in people if label not in skipped]
    if len(classes) < 2:
        return Judgement([], skipped | {"": f"{len(classes)} labels with enough speakers, needs 2"})
    usable &= np.isin(given, classes)
    rows = np.flatnonzero(usable)
    truth = np.array([classes.index(g) for g in given[rows]])
    # A speaker under two labels is two units in the verdict but one group in the folds.
    fold = speaker_folds(_first_labels(truth, names[rows]), list(names[rows]), folds, seed)
    units = sorted(set(zip(names[rows], truth.tolist(), strict=True)))
    number = {unit: i for i, unit in enumerate(units)}
    unit = np.array([number[u] for u in zip(names[rows], truth.tolist(), strict=True)])
    clips = np.bincount(unit)
    probability = out_of_fold(features[rows], truth, fold, 1 / clips[unit], seed)
    averaged = np.stack([np.bincount(unit, column) / clips for column in probability.T], axis=1)
    averaged /= averaged.sum(axis=1, keepdims=True)
    given = np.array([label for _, label in units])
    flagged = find_label_issues(given, averaged, filter_by=method, n_jobs=1)
    quality = get_label_quality_scores(given, averaged, method="self_confidence")
    first = np.unique(unit, return_index=True)[1]
    return Judgement(
        [
            Verdict(
                speaker=name,
                given=classes[label],
                suggested=classes[int(averaged[i].argmax())],
                confidence=float(averaged[i].max()),
                quality=float(quality[i]),
                flagged=bool(flagged[i] and averaged[i].argmax() != label),
                clips=int(clips[i]),
                fold=int(fold[first[i]]),
            )
            for i, (name, label) in enumerate(units)
        ],
        skipped,
    )


def _first_labels(truth: NDArray[np.int64], speakers: NDArray[np.object_]) -> NDArray[np.int64]:
    """Label of each clip's speaker by their first clip."""
    _, first, member = np.unique(speakers, return_index=True, return_inverse=True)
    return truth[first][member]


def out_of_fold(
    features: Floats,
    truth: NDArray[np.int64],
    fold: NDArray[np.int64],
    weight: Floats,
    seed: int,
) -> NDArray[np.float64]:
    """Probabilities of each clip from models that did not see its fold.

    Args:
        features: [n, F], finite.
        truth: [n], classes 0 to k-1, each in every fold's rest.
        fold: [n].
        weight: [n], of each clip in the fit; 1 / clips makes speakers count the same.
        seed: of the trees.

    Returns:
        [n, k], rows sum to 1: the mean of both classifiers.
    """
    weight = weight / weight.mean()
    # One thread: beside other work, OpenMP's waiting threads make the trees forty times slower.
    with threadpool_limits(1):
        return _fitted(features, truth, fold, weight, seed)


def _fitted(
    features: Floats,
    truth: NDArray[np.int64],
    fold: NDArray[np.int64],
    weight: Floats,
    seed: int,
) -> NDArray[np.float64]:
    probability = np.zeros((len(truth), int(truth.max()) + 1))
    for held_out in range(int(fold.max()) + 1):
        test = fold == held_out
        linear = make_pipeline(StandardScaler(), LogisticRegression(C=0.05, max_iter=5000))
        trees = HistGradientBoostingClassifier(
            max_iter=100,
            max_leaf_nodes=15,
            l2_regularization=1.0,
            early_stopping=False,
            random_state=seed,
        )
        linear.fit(features[~test], truth[~test], logisticregression__sample_weight=weight[~test])
        trees.fit(features[~test], truth[~test], sample_weight=weight[~test])
        for model in (linear, trees):
            probability[np.ix_(test, model.classes_)] += 0.5 * model.predict_proba(features[test])
    return probability
