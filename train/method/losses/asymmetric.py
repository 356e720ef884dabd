"""Asymmetric loss (Ridnik et al. 2021, arXiv 2009.14119), in its two published forms.

The poster's shifted probability p_m belongs to the sigmoid form; the authors' own loss for
classes that exclude each other is the softmax form. The poster gives neither gammas nor margin.

As in the authors' code at its defaults, the focusing weights carry gradient. Rows without a
label are left out by the caller: a target outside [0, C) raises.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, logsigmoid, one_hot


def asymmetric(
    logits: Tensor, target: Tensor, *, gamma_negative: float, gamma_positive: float, margin: float
) -> Tensor:
    """Sigmoid form, one class against the rest, summed over the classes.

    With p = sigmoid(logit) and p_m = max(p - margin, 0), the target's class costs
    -(1 - p)^gamma_positive log(p), every other class -p_m^gamma_negative log(1 - p_m). With
    both gammas and the margin 0 it is the sum of C binary cross-entropies.

    Args:
        logits: [N, C].
        target: int64 [N] in [0, C).
        gamma_negative: at least 0; the larger, the less an easy negative counts. Authors: 4.
        gamma_positive: at least 0, of the target's class. Authors: 1.
        margin: in [0, 1); negatives less probable than this cost nothing. Authors: 0.05.

    Returns:
        [N], at least 0.
    """
    log_p, log_not_p = logsigmoid(logits), logsigmoid(-logits)
    positive = -(gamma_positive * log_not_p).exp() * log_p
    # log(1 - p_m) = log min(1 - p + margin, 1), from logarithms: 1 - p rounds to 0 far too early.
    log_not_pm = torch.logaddexp(log_not_p, logits.new_tensor(margin).log()).clamp(max=0.0)
    negative = -_power(-torch.expm1(log_not_pm), gamma_negative) * log_not_pm
    return torch.where(_is_target(logits, target), positive, negative).sum(dim=1)


def asymmetric_single_label(
    logits: Tensor,
    target: Tensor,
    *,
    gamma_negative: float,
    gamma_positive: float,
    smoothing: float,
) -> Tensor:
    """Softmax form (``ASLSingleLabel`` of the authors' code), without margin.

    -sum_c t_c w_c log(q_c) with q = softmax(logits), the smoothed target
    t = (1 - smoothing) onehot + smoothing / C, and weights w_c of (1 - q_c)^gamma_positive at
    the target, q_c^gamma_negative elsewhere. Classes other than the target enter through the
    smoothing alone: without it and with gamma_positive 0 this is cross-entropy, whatever
    gamma_negative. With both gammas 0 it is label-smoothed cross-entropy.

    Args:
        logits: [N, C].
        target: int64 [N] in [0, C).
        gamma_negative: at least 0. Authors: 4.
        gamma_positive: at least 0. Authors: 0.
        smoothing: in [0, 1]. Authors: 0.1.

    Returns:
        [N], at least 0.
    """
    log_q = log_softmax(logits, dim=1)
    is_target = _is_target(logits, target)
    at_target = _power(-torch.expm1(log_q), gamma_positive)
    elsewhere = (gamma_negative * log_q).exp()
    smoothed = (1.0 - smoothing) * is_target.to(log_q) + smoothing / logits.shape[1]
    return -(smoothed * torch.where(is_target, at_target, elsewhere) * log_q).sum(dim=1)


def _is_target(logits: Tensor, target: Tensor) -> Tensor:
    return one_hot(target, logits.shape[1]).bool()


def _power(base: Tensor, exponent: float) -> Tensor:
    """``base**exponent`` for base >= 0: at 0 the slope of a power below 1 would be infinite."""
    return base.clamp(min=torch.finfo(base.dtype).tiny) ** exponent
