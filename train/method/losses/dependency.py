"""Dependency loss: a price on predicting a subclass outside the predicted superclass.

After Gao et al. 2020 (arXiv 2005.06692, Eq. 6), which the poster's L_dep most likely is with the
asymmetric losses as its bases (paper.md, section 2.2). Two masks rule it:

* D: the predicted subclass is not a child of the predicted superclass;
* I: the prediction at that level is wrong.

Both come from argmax and carry no gradient. ``parent`` is int64 [Cs], the superclass of every
subclass. Where the labels follow the tree, D implies I of at least one level.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import log_softmax


def disagrees(sub_logits: Tensor, sup_logits: Tensor, parent: Tensor) -> Tensor:
    """D, bool [N]: whether the likeliest subclass is no child of the likeliest superclass."""
    return parent[sub_logits.argmax(dim=1)] != sup_logits.argmax(dim=1)


def is_wrong(logits: Tensor, target: Tensor) -> Tensor:
    """I of one level, bool [N]: whether the likeliest of the classes is not ``target``."""
    return logits.argmax(dim=1) != target


def repaired(
    sub_logits: Tensor,
    sup_logits: Tensor,
    sub_loss: Tensor,
    sup_loss: Tensor,
    sub_target: Tensor,
    sup_target: Tensor,
    parent: Tensor,
) -> Tensor:
    """D ((1 + l_sub)^I_sub (1 + l_sup)^I_sup - 1): the penalty as it was meant.

    Zero where the levels agree, be they right or wrong; else it grows with the loss of every
    level that is wrong. Gradient reaches those losses only.

    Args:
        sub_logits: [N, Cs]; only their argmax counts.
        sup_logits: [N, Cp]; only their argmax counts.
        sub_loss: [N], at least 0, one value per row of the subclass's loss.
        sup_loss: [N], at least 0, of the superclass's.
        sub_target: int64 [N].
        sup_target: int64 [N].
        parent: int64 [Cs].

    Returns:
        [N], at least 0.
    """
    apart = disagrees(sub_logits, sup_logits, parent)
    none = torch.zeros_like(sub_loss)
    sub = torch.where(apart & is_wrong(sub_logits, sub_target), sub_loss, none)
    sup = torch.where(apart & is_wrong(sup_logits, sup_target), sup_loss, none)
    return sub + sup + sub * sup  # (1 + sub) (1 + sup) - 1, small losses not rounded away


def literal(
    sub_logits: Tensor,
    sup_logits: Tensor,
    sub_loss: Tensor,
    sup_loss: Tensor,
    sub_target: Tensor,
    sup_target: Tensor,
    parent: Tensor,
) -> Tensor:
    """-(l_sub)^(D I_sub) (l_sup)^(D I_sup): the poster's formula as printed; for comparison only.

    Where the levels agree, it is the constant -1:
    it is uninformative there, and shifts the total.

    Where they disagree and one is wrong, it is minus that level's loss:
    it cancels the very term that would correct the error.

    Where they disagree and both are wrong, it is minus the product of the losses:
    it falls without bound as the errors grow, so it rewards them.

    Arguments are those of :func:`repaired`.

    Returns:
        [N], at most 0.
    """
    apart = disagrees(sub_logits, sup_logits, parent)
    one = torch.ones_like(sub_loss)
    sub = torch.where(apart & is_wrong(sub_logits, sub_target), sub_loss, one)
    sup = torch.where(apart & is_wrong(sup_logits, sup_target), sup_loss, one)
    return -sub * sup


def smooth(sub_logits: Tensor, sup_logits: Tensor, parent: Tensor) -> Tensor:
    """-log sum_j q_sub(j) q_sup(parent(j)): minus the log-probability that the levels agree.

    Differentiable in both logits and free of labels. It vanishes only where both levels are
    *sure* of one branch: levels that agree but are unsure pay as well.

    Args:
        sub_logits: [N, Cs].
        sup_logits: [N, Cp].
        parent: int64 [Cs].

    Returns:
        [N], at least 0.
    """
    both = log_softmax(sub_logits, dim=1) + log_softmax(sup_logits, dim=1)[:, parent]
    return -torch.logsumexp(both, dim=1).clamp(max=0.0)  # rounding can exceed probability 1
