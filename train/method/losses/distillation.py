"""Feature distillation: how far the student's embedding is from the teacher's (paper.md, 2.3).

The student's features are projected to the teacher's size beforehand; the teacher's never
receive gradient.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cosine_similarity

_SMALLEST_NORM = 1e-3
"""Shorter vectors count as this long: the cosine's gradient grows as 1 / norm."""


def feature_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance by dimension, ||student - teacher||^2 / E.

    Args:
        student: [N, E].
        teacher: [N, E].

    Returns:
        [N], at least 0.
    """
    return (student - teacher.detach()).square().mean(dim=1)


def feature_cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - cos(student, teacher); 1 where either is the zero vector.

    Args:
        student: [N, E].
        teacher: [N, E].

    Returns:
        [N] in [0, 2].
    """
    return 1.0 - cosine_similarity(student, teacher.detach(), dim=1, eps=_SMALLEST_NORM)
