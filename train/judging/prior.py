"""How much of the training data's class prior a student keeps: a choice, made on dev.

Young adults are four in seven draws even of balanced batches, so a student calls whoever is in
doubt young. Taking back tau of the log prior (logit adjustment, Menon et al. 2021, arXiv
2007.07314) trades recall of the common classes for recall of the rare ones. It is folded into the
classifier's bias: the exported graph is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from model.labels import LabelTree
from model.student import Student
from train.judging.evaluate import Running
from train.judging.metrics import macro_scores
from train.loading.data import Split

ADJUSTED = ("age_group", "age_band")
"""Tasks whose prior is a choice; both genders are drawn about equally often."""
TAUS = (0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)
_SPEECH_SECONDS = (2.0, 4.0, 1e9)
"""F1 is averaged over these amounts of speech: one alone is a noisy guide to tau."""


def class_prior(split: Split, balance: float, tree: LabelTree) -> dict[str, NDArray[np.float64]]:
    """Shares in which training draws the classes of each adjusted task; each sums to 1."""
    band = np.full(len(tree.age_band), 1e-9)
    for (_, name), cell in split.cells.items():
        if name:
            band[tree.age_band.index(name)] += cell.mass * cell.clips**-balance
    group = np.bincount(tree.parent, weights=band)
    return {"age_group": group / group.sum(), "age_band": band / band.sum()}


def choose(
    running: Running,
    prior: dict[str, NDArray[np.float64]],
    tree: LabelTree,
    tasks: Sequence[str] = ADJUSTED,
) -> dict[str, Any]:
    """The tau of best macro F1 on dev, by task, beside what every tau gives.

    Args:
        running: on dev, of the student as trained.
        prior: see :func:`class_prior`.
        tree: class names.
        tasks: that have a classifier of their own, see :func:`adjustable`.

    Returns:
        By task ``tau`` and ``tried``: rows of tau, macro F1 and macro recall.
    """
    chosen: dict[str, Any] = {}
    for task in tasks:
        tried = []
        for tau in TAUS:
            scores = []
            for seconds in _SPEECH_SECONDS:
                logp, truth = running.at(task, seconds)
                predicted = (logp - tau * np.log(prior[task])).argmax(axis=1)
                scores.append(macro_scores(truth, predicted, tree.classes(task)))
            f1, recall = (float(np.mean([s[key] for s in scores])) for key in ("f1", "recall"))
            tried.append({"tau": tau, "f1": round(f1, 4), "recall": round(recall, 4)})
        best = max(tried, key=lambda row: (row["f1"], -row["tau"]))
        chosen[task] = {"tau": best["tau"], "tried": tried}
    return chosen


def adjustable(student: Student) -> list[str]:
    """Adjusted tasks of ``student``; a marginalised group has no classifier, only its bands."""
    return [task for task in ADJUSTED if task in student.heads.classify]


@torch.no_grad()
def take_back(
    student: Student, prior: dict[str, NDArray[np.float64]], tau: dict[str, float]
) -> None:
    """Shift the biases of ``student`` by -tau log(prior), in place."""
    for task, share in tau.items():
        linear = student.heads.classify[task]
        assert isinstance(linear, torch.nn.Linear)
        linear.bias.sub_(torch.as_tensor(share * np.log(prior[task]), dtype=linear.bias.dtype))
