"""Cross-validation over speakers: none is scored by a model trained on the same speaker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold


def speaker_folds(
    labels: Sequence[str] | NDArray[Any], speakers: Sequence[str], folds: int, seed: int
) -> NDArray[np.int64]:
    """Fold of each clip: all clips of a speaker in one fold, labels spread evenly.

    Whole speakers are dealt out, not clips, so a label that ``folds`` or more speakers carry is
    in every fold and in every rest; scikit-learn's StratifiedGroupKFold does not promise that.

    Args:
        labels: of each clip [n]; a speaker of several labels counts under the first.
        speakers: of each clip [n].
        folds: number of folds, at least 2.
        seed: of the dealing.

    Returns:
        int64 [n], 0 to folds - 1.

    Raises:
        ValueError: a label has fewer speakers than there are folds; names both.
    """
    _, first, member = np.unique(np.asarray(speakers), return_index=True, return_inverse=True)
    strata = np.asarray(labels)[first]
    names, counts = np.unique(strata, return_counts=True)
    if counts.min() < folds:
        scarce = str(names[counts.argmin()])
        raise ValueError(f"label {scarce!r}: {counts.min()} speakers for {folds} folds")
    fold = np.empty(len(first), np.int64)
    dealt = StratifiedKFold(folds, shuffle=True, random_state=seed)
    for number, (_, held_out) in enumerate(dealt.split(first, strata)):
        fold[held_out] = number
    return fold[member]
