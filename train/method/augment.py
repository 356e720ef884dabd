"""Augmentation of fbank frames, on top of the telephone channel; training only."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.frontend import mel_edges


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

    No time masks: the student pools over time, and a pause has the same effect.

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


class FrequencyWarp(nn.Module):
    """Vocal tract length perturbation (Jaitly & Hinton 2013): other speakers of the same age.

    Frequencies are stretched by a factor of each utterance, in log-mel frames, by interpolation
    between bins. There are few speakers in corpora with ages, and a network learns them by heart.

    Args:
        bins: mel bins.
        sample_rate: Hz, of the speech that the bins cover up to its half.
        widest: largest change of frequency, 0.06 draws factors between 0.94 and 1.06.
    """

    def __init__(self, bins: int, sample_rate: int, widest: float) -> None:
        super().__init__()
        self.widest = widest
        edges = mel_edges(sample_rate).float()
        centres, step = edges[1:-1], edges[1] - edges[0]
        self.register_buffer("hertz", 700.0 * torch.expm1(centres / 1127.0), persistent=False)
        self.hertz: Tensor
        self.low, self.step, self.bins = float(centres[0]), float(step), bins

    def forward(self, features: Tensor) -> Tensor:
        """[B, T, bins] -> the same; beyond the band the outermost bin stands."""
        if not self.widest:
            return features
        draw = torch.rand(features.shape[0], 1, device=features.device)
        factor = 1.0 + self.widest * (2.0 * draw - 1.0)
        mel = 1127.0 * torch.log1p(self.hertz * factor / 700.0)
        place = ((mel - self.low) / self.step).clamp(0.0, self.bins - 1.0)[..., None]
        order = torch.arange(self.bins, device=features.device)
        mixing = (1.0 - (place - order).abs()).clamp(min=0.0)  # [B, to, from]
        return features @ mixing.transpose(1, 2)
