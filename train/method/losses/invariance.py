"""Invariance of the predictions to style (paper.md, 2.4; the poster's Z->H->Y).

A causally motivated regulariser: it identifies nothing.
"""

from __future__ import annotations

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
