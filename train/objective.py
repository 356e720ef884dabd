"""What training minimises."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from model.student import BLOCK, Output
from streamer.codec import SAMPLE_RATE
from train.loading.batches import UNKNOWN

FULL_WEIGHT_SECONDS = 2.0
"""From here on every prefix of a call counts the same; shorter ones count in proportion."""


def prefix_weights(ended: Tensor) -> Tensor:
    """[B, n] weight of the posterior after each block; rows of speechless utterances are zero.

    The running posterior is supervised at every block, because a caller is judged while still
    talking; the first syllables are too ambiguous to count in full.
    """
    seconds = (torch.arange(ended.shape[1]) + 1) * (BLOCK / SAMPLE_RATE)
    weight = (seconds / FULL_WEIGHT_SECONDS).clamp(max=1.0) * ended
    return weight / weight.sum(dim=1, keepdim=True).clamp(min=1e-6)


def supervised_multitask(
    output: Output, targets: dict[str, Tensor], *, label_smoothing: float
) -> dict[str, Tensor]:
    """Cross-entropy of each task over all prefixes, by task (the paper's row ``base``).

    Utterances without a label for a task are left out of that task's mean.
    """
    weights = prefix_weights(output.ended)
    losses = {}
    for task, logits in output.logits.items():
        target = targets[task][:, None].expand(-1, logits.shape[1])
        each = cross_entropy(
            logits.flatten(0, 1),
            target.flatten(),
            ignore_index=UNKNOWN,
            reduction="none",
            label_smoothing=label_smoothing,
        ).reshape(weights.shape)
        known = (targets[task] != UNKNOWN).sum().clamp(min=1)
        losses[task] = (each * weights).sum() / known
    return losses
