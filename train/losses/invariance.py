"""Invariance of the predictions to style and environment (paper.md, 2.4; the poster's Z->H->Y).

Causally motivated regularisers: they identify nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax


def invariance(plain_logits: Tensor, styled_logits: Tensor) -> Tensor:
    """KL(p(plain) || p(styled)), in the manner of ReLIC (Mitrovic et al., arXiv 2010.07922).

    Mixup or codec is the intervention on style. The plain side gets no gradient, so that the
    styled prediction comes to the plain one and not the reverse.

    Args:
        plain_logits: [N, C].
        styled_logits: [N, C], of the same utterances in another style.

    Returns:
        [N], at least 0 up to rounding.
    """
    plain = log_softmax(plain_logits.detach(), dim=1)
    styled = log_softmax(styled_logits, dim=1)
    return kl_div(styled, plain, reduction="none", log_target=True).sum(dim=1)


def risk_variance(each: Tensor, environment: Tensor) -> Tensor:
    """V-REx penalty (Krueger et al. 2021, arXiv 2003.00688): how unequal the mean risks are.

    Args:
        each: [N], one loss per row.
        environment: int64 [N], any integers; rows of one environment share one.

    Returns:
        Scalar, the population variance over the environments present of their mean losses; 0
        with fewer than two of them, or without rows.
    """
    if len(each) == 0:
        return each.sum()  # 0 that can be differentiated: a batch may hold no label of a task
    present, row = environment.unique(return_inverse=True)
    none = each.new_zeros(len(present))
    risk = none.index_add(0, row, each) / none.index_add(0, row, torch.ones_like(each))
    return risk.var(correction=0)
