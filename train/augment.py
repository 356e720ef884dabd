"""Augmentation of fbank frames, on top of the telephone channel; training only."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ChannelTilt(nn.Module):
    """A smooth random gain over frequency: handsets and trunks differ in their response.

    Args:
        tilt_db: standard deviation, dB across the band, of each of the first cosine shapes.
        shapes: number of cosine shapes.
    """

    def __init__(self, bins: int, tilt_db: float = 3.0, shapes: int = 4) -> None:
        super().__init__()
        self.scale = tilt_db * 0.2303  # dB of power to natural log
        position = (torch.arange(bins) + 0.5) / bins * torch.pi
        shape = torch.stack([torch.cos(position * (k + 1)) / (k + 1) for k in range(shapes)])
        self.register_buffer("shape", shape, persistent=False)
        self.shape: Tensor

    def forward(self, features: Tensor) -> Tensor:
        """[B, T, bins] log-mel -> the same, each utterance through its own response."""
        shape = (features.shape[0], 1, self.shape.shape[0])
        draw = torch.randn(shape, device=features.device) * self.scale
        return features + draw @ self.shape


class FrequencyMask(nn.Module):
    """SpecAugment's frequency masking (Park et al. 2019): bands replaced by their batch mean.

    No time masks: the student pools over time, and a pause says the same.

    Args:
        masks: bands per utterance; widest: bins of the widest band.
    """

    def __init__(self, masks: int = 2, widest: int = 10) -> None:
        super().__init__()
        self.masks, self.widest = masks, widest

    def forward(self, features: Tensor) -> Tensor:
        """[B, T, bins] -> the same with bands of each utterance flattened."""
        batch, _, bins = features.shape
        device = features.device
        order = torch.arange(bins, device=device)
        hidden = torch.zeros(batch, 1, bins, dtype=torch.bool, device=device)
        for _ in range(self.masks):
            width = torch.randint(0, self.widest + 1, (batch, 1, 1), device=device)
            start = torch.randint(0, bins - self.widest + 1, (batch, 1, 1), device=device)
            hidden |= (order >= start) & (order < start + width)
        return torch.where(hidden, features.mean(dim=(0, 1), keepdim=True), features)
