"""How a student's answer weighs the classes: a choice, made on dev.

Training draws young adults more often than not, and macro F1 counts every class alike: a student
that answers by its posterior calls every doubtful voice young. A shift of a class's log posterior
moves the line where its answer begins. One number for all classes (logit adjustment by a share of
the log prior, Menon et al. 2021, arXiv 2007.07314) also moves those that are well placed: on dev
it gained 0.004 at best. The shift is folded into the classifier's bias: the exported graph is the
same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from model.classifier import SpeakerClassifier
from model.labels import LabelTree
from train.evaluation.evaluate import Running
from train.evaluation.metrics import macro_scores

SHIFTED = ("age_group", "age_band")
"""Tasks whose answer is shifted; both genders are drawn about equally often."""
STEP, WIDEST = 0.25, 1.5
"""Shifts that are tried, natural log."""
PRICE = 0.05
"""Macro F1 that a class's shift by 1 has to gain on dev, lest it follow chance: of 0.01 to 0.08 the
one of best F1 in cross-validation by speaker, over five runs of the table."""
_SPEECH_SECONDS = (2.0, 4.0, 1e9)
"""F1 is averaged over these amounts of speech: one alone is a noisy guide."""

Floats = NDArray[np.float64]


def _scores(running: Running, task: str, shift: Floats, tree: LabelTree) -> dict[str, float]:
    found = []
    for seconds in _SPEECH_SECONDS:
        logp, truth = running.at(task, seconds)
        found.append(macro_scores(truth, (logp + shift).argmax(axis=1), tree.classes(task)))
    return {key: float(np.mean([scores[key] for scores in found])) for key in ("f1", "recall")}


def _best(running: Running, task: str, tree: LabelTree) -> Floats:
    """Shift of each class by coordinate ascent; the commonest one stays where it is."""
    steps = np.arange(-round(WIDEST / STEP), round(WIDEST / STEP) + 1) * STEP
    _, truth = running.at(task, _SPEECH_SECONDS[-1])
    counts = np.bincount(truth, minlength=len(tree.classes(task)))
    # A class that dev has none of cannot be placed by it.
    free = [k for k in np.argsort(counts) if 0 < counts[k] < counts.max()]

    def worth(shift: Floats) -> float:
        return _scores(running, task, shift, tree)["f1"] - PRICE * float(np.abs(shift).sum())

    shift = np.zeros(len(counts))
    best, before = worth(shift), -np.inf
    while best > before:
        before = best
        for k in free:
            for value in steps:
                tried = shift.copy()
                tried[k] = value
                if (gained := worth(tried)) > best + 1e-9:
                    best, shift = gained, tried
    return shift


def choose(
    running: Running, tree: LabelTree, tasks: Sequence[str] = SHIFTED
) -> dict[str, dict[str, Any]]:
    """The shifts of best macro F1 on dev, by task, and what they change there.

    Args:
        running: on dev, of the student as trained.
        tree: class names.
        tasks: that have a classifier of their own, see :func:`shiftable`.

    Returns:
        By task ``shift`` (natural log, by class), and ``f1`` and ``recall``, macro, averaged over
        2 s, 4 s and all of the speech: [without, with]. With, they are of what was chosen by them.
    """
    chosen: dict[str, dict[str, Any]] = {}
    for task in tasks:
        shift = _best(running, task, tree)
        plain = _scores(running, task, np.zeros_like(shift), tree)
        moved = _scores(running, task, shift, tree)
        chosen[task] = {
            "shift": dict(zip(tree.classes(task), shift.tolist(), strict=True)),
            **{key: [round(plain[key], 4), round(moved[key], 4)] for key in plain},
        }
    return chosen


def shiftable(student: SpeakerClassifier) -> list[str]:
    """Shifted tasks of ``student``; a marginalised group has no classifier, only its bands."""
    return [task for task in SHIFTED if task in student.heads.classify]


@torch.no_grad()
def apply(student: SpeakerClassifier, chosen: dict[str, dict[str, Any]]) -> None:
    """Shift the biases of ``student`` as :func:`choose` found, in place."""
    for task, found in chosen.items():
        linear = student.heads.classify[task]
        assert isinstance(linear, torch.nn.Linear)
        linear.bias.add_(torch.tensor(list(found["shift"].values()), dtype=linear.bias.dtype))
