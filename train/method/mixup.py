"""Temporal-frequency mixup of fbank frames (the poster's stage 1; paper.md, sections 1 and 2.3).

Training only: in eval mode both modules return their input. Random numbers come from torch's
default generator, which the trainer saves and restores.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_POLICY_BINS = 80
"""Mel bins that SpecAugment's published widths are meant for."""


class SpecAugment(nn.Module):
    """SpecAugment (Park et al. 2019, arXiv 1904.08779) without time warping.

    The defaults are its mild Switchboard policy, which was set on 8 kHz telephone speech. Masked
    cells take the mean of their bin over the utterance. Width and place of every mask are
    uniform and drawn for each utterance.

    Args:
        frequency_masks: bands per utterance (mF).
        frequency_width: bins of the widest band (F), at 80 bins; in proportion at other counts.
        time_masks: spans per utterance (mT).
        time_width: frames of the longest span (T).
        time_share: greatest part of the utterance under one span (p), in [0, 1].
    """

    def __init__(
        self,
        frequency_masks: int = 2,
        frequency_width: int = 15,
        time_masks: int = 2,
        time_width: int = 70,
        time_share: float = 0.2,
    ) -> None:
        super().__init__()
        self.frequency_masks, self.frequency_width = frequency_masks, frequency_width
        self.time_masks, self.time_width, self.time_share = time_masks, time_width, time_share

    def forward(self, features: Tensor, frames: Tensor) -> Tensor:
        """Mask bands and spans of each utterance.

        Args:
            features: [B, T, bins] log-mel.
            frames: int64 [B], true frames of each utterance, at most T.

        Returns:
            [B, T, bins]; frames from ``frames[b]`` on are padding and stay as they are.
        """
        if not self.training:
            return features
        _, size, bins = features.shape
        valid = _valid(features, frames)
        total = features.masked_fill(~valid, 0.0).sum(dim=1, keepdim=True)
        mean = total / frames[:, None, None].clamp(min=1)

        band = min(round(self.frequency_width * bins / _POLICY_BINS), bins)
        span = (frames * self.time_share).long().clamp(max=self.time_width)
        hidden = torch.zeros_like(features, dtype=torch.bool)
        for _ in range(self.frequency_masks):
            every = torch.full_like(frames, bins)
            hidden |= _stretch(bins, every, torch.full_like(frames, band))[:, None, :]
        for _ in range(self.time_masks):
            hidden |= _stretch(size, frames, span)[:, :, None]
        return torch.where(hidden & valid, mean, features)


class TemporalFrequencyMixup(nn.Module):
    """Every frame mixed with the mean of its masked neighbourhood in the same utterance.

    x_mix[i] = lam x[i] + (1 - lam) mean over j of specaugment(x)[j], where j runs over
    [i - T/2, i + T/2] within the utterance. The poster divides T + 1 terms by T; here the
    mean is over the terms there are, at the edges too. The label stays, as no other utterance
    is involved. It looks T/2 frames ahead, so it is not causal: no matter, as it never runs
    while serving.

    Window and lam are our choice; the paper gives neither.

    Args:
        specaugment: maps ([B, T, bins], frames) to [B, T, bins], as :class:`SpecAugment`.
        window: T, even, in frames; 0 mixes each frame with its own masked self.
        lam_alpha: None for the fixed ``lam``; else each utterance draws
            lam ~ Beta(lam_alpha, lam_alpha), of which max(lam, 1 - lam) counts, so that the
            original dominates.
        lam: part of the original in [0, 1] where ``lam_alpha`` is None.

    Raises:
        ValueError: ``window`` is odd or negative, ``lam_alpha`` not positive, or ``lam`` outside
            [0, 1].
    """

    def __init__(
        self,
        specaugment: nn.Module,
        window: int = 10,
        lam_alpha: float | None = None,
        lam: float = 0.7,
    ) -> None:
        super().__init__()
        if window < 0 or window % 2:
            raise ValueError(f"window {window} is not an even number of frames")
        if lam_alpha is not None and not lam_alpha > 0:
            raise ValueError(f"lam_alpha {lam_alpha} is not positive")
        if not 0.0 <= lam <= 1.0:
            raise ValueError(f"lam {lam} is outside [0, 1]")
        self.specaugment, self.window = specaugment, window
        self.lam_alpha, self.lam = lam_alpha, lam

    def forward(self, features: Tensor, frames: Tensor) -> Tensor:
        """Mix each utterance with its own masked neighbourhoods.

        Args:
            features: [B, T, bins] log-mel.
            frames: int64 [B], true frames of each utterance, at most T.

        Returns:
            [B, T, bins]; frames from ``frames[b]`` on are padding, enter no mean and stay as
            they are.
        """
        if not self.training:
            return features
        valid = _valid(features, frames)
        masked = self.specaugment(features, frames).masked_fill(~valid, 0.0)
        around = _moving_mean(masked, frames, self.window // 2)
        lam = self._draw_lam(features)
        return torch.where(valid, lam * features + (1.0 - lam) * around, features)

    def _draw_lam(self, features: Tensor) -> Tensor:
        """[B, 1, 1] part of the original in each utterance."""
        shape = (features.shape[0], 1, 1)
        if self.lam_alpha is None:
            return features.new_full(shape, self.lam)
        lam = torch.distributions.Beta(self.lam_alpha, self.lam_alpha).sample(shape)
        return torch.maximum(lam, 1.0 - lam).to(features)


def _valid(features: Tensor, frames: Tensor) -> Tensor:
    """[B, T, 1]: whether a frame is speech and not padding."""
    order = torch.arange(features.shape[1], device=features.device)
    return (order < frames[:, None])[..., None]


def _stretch(size: int, length: Tensor, widest: Tensor) -> Tensor:
    """Bool [B, size]: in each row one random stretch of 0 to ``widest`` within ``length``."""
    # Drawn on the CPU wherever the features are: there is the generator that a resume restores.
    draw = torch.rand(2, len(length)).to(length.device)
    width = (draw[0] * (widest + 1)).long()
    start = (draw[1] * (length - width + 1)).long()
    order = torch.arange(size, device=length.device)
    return (order >= start[:, None]) & (order < (start + width)[:, None])


def _moving_mean(values: Tensor, frames: Tensor, reach: int) -> Tensor:
    """Mean over the frames at most ``reach`` away, of [B, T, bins] that is zero in the padding."""
    # Differences of long sums: float32 would lose the digits that the window is made of.
    sums = nn.functional.pad(values.double().cumsum(dim=1), (0, 0, 1, 0))
    order = torch.arange(values.shape[1], device=values.device)
    first = (order - reach).clamp(min=0)
    last = (order + reach + 1).clamp(max=values.shape[1])
    count = (torch.minimum(last, frames[:, None]) - first).clamp(min=1)
    return ((sums[:, last] - sums[:, first]) / count[..., None]).to(values)
