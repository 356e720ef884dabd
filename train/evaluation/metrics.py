"""Classification and calibration measures; NumPy and scikit-learn only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]


def macro_scores(truth: Ints, predicted: Ints, classes: Sequence[str]) -> dict[str, Any]:
    """Macro precision, recall and F1 over the classes that occur in ``truth``.

    Args:
        truth: int [n] class indices.
        predicted: int [n].
        classes: names.

    Returns:
        ``n``, ``precision``, ``recall``, ``f1``, ``accuracy`` (None for an empty split),
        ``per_class`` by name, and ``absent``: names left out of the averages.
    """
    from sklearn.metrics import (  # noqa: PLC0415 - two seconds, and --help scores nothing
        precision_recall_fscore_support,
    )

    present = sorted(set(truth.tolist()))
    absent = [name for i, name in enumerate(classes) if i not in present]
    if not present:
        empty = dict.fromkeys(("precision", "recall", "f1", "accuracy"))
        return {"n": 0, **empty, "per_class": {}, "absent": absent}
    precision, recall, f1, support = precision_recall_fscore_support(
        truth, predicted, labels=present, zero_division=0.0
    )
    return {
        "n": len(truth),
        "precision": float(precision.mean()),
        "recall": float(recall.mean()),
        "f1": float(f1.mean()),
        "accuracy": float((truth == predicted).mean()),
        "per_class": {
            classes[c]: {
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": float(f1[i]),
                "n": int(support[i]),
            }
            for i, c in enumerate(present)
        },
        "absent": absent,
    }


def expected_calibration_error(
    confidence: Floats, correct: NDArray[np.bool_], bins: int = 15
) -> float:
    """ECE of top-1 confidences in [0, 1] over equally wide bins (Guo et al. 2017); 0 if empty."""
    if not len(confidence):
        return 0.0
    slot = np.minimum((confidence * bins).astype(int), bins - 1)
    error = 0.0
    for b in range(bins):
        inside = slot == b
        if inside.any():
            error += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    return float(error)
