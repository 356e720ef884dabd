"""ResNet speaker encoder (He et al. 2016, arXiv 1512.03385), made streamable.

The shape is WeSpeaker's (Wang et al. 2023, arXiv 2210.17016): a 3x3 stem without max pooling, four
stages of basic blocks over time and frequency, statistics over time. Maps inside are
[B, C, T, F]; the interface is that of ``model.encoders.ecapa.Ecapa``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from model.frontend import BINS
from model.layers import AttentiveStatsPooling, RunningMean

Pooling = Literal["attentive", "statistics"]

_KERNEL = 3
_FRAMES_PER_BLOCK = 32  # model.classifier.FRAMES_PER_BLOCK, which lies above this module


@dataclass(frozen=True)
class ResNetConfig:
    """Shape of one ResNet encoder.

    Attributes:
        width: channels of the first stage; every later stage has twice those before it.
        blocks: basic blocks of each stage. Every stage but the first halves the frequency axis.
        time_strides: of each stage, 1 or 2; their product is ``stem_stride``.
        pooling: "attentive", or the paper's plain mean and deviation, "statistics".
        attention: bottleneck of the attentive pooling.
        causal: streamable; else centred convolutions of whole utterances.

    Raises:
        ValueError: a combination that cannot be built; the message names the field.
    """

    width: int = 32
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    time_strides: tuple[int, ...] = (1, 2, 2, 2)
    pooling: Pooling = "attentive"
    attention: int = 128
    causal: bool = True

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width {self.width} is not positive")
        if not self.blocks or min(self.blocks) < 1:
            raise ValueError(f"blocks {self.blocks}: every stage needs at least one")
        if len(self.time_strides) != len(self.blocks):
            raise ValueError(f"time_strides {self.time_strides} are not one per stage")
        if not set(self.time_strides) <= {1, 2}:
            raise ValueError(f"time_strides {self.time_strides} are not 1 or 2 each")
        if _FRAMES_PER_BLOCK % self.stem_stride:
            raise ValueError(
                f"time_strides {self.time_strides} multiply to {self.stem_stride}, "
                f"which does not divide the {_FRAMES_PER_BLOCK} frames of a block"
            )
        if self.pooling not in get_args(Pooling):
            raise ValueError(f"pooling {self.pooling!r} is not one of {get_args(Pooling)}")
        if self.attention < 1:
            raise ValueError(f"attention {self.attention} is not positive")

    @property
    def stem_stride(self) -> int:
        """fbank frames per encoder frame; named as in ``EcapaConfig``."""
        return math.prod(self.time_strides)


RESNET_34 = ResNetConfig(pooling="statistics", causal=False)
"""WeSpeaker's ResNet34-TSTP (6.70 M parameters with its two 256-d embedding layers)."""


class ConvNorm(nn.Module):
    """3x3 convolution over time and frequency with batch norm; frequency is always centred.

    Args:
        inputs: channels in.
        outputs: channels out.
        bins: frequency bins in.
        stride: along time and frequency.
        causal: earlier frames come from the state; else time is centred too.
    """

    def __init__(
        self, inputs: int, outputs: int, bins: int, *, stride: tuple[int, int], causal: bool
    ) -> None:
        super().__init__()
        # The newest tap lies on the newest frame. With stride 2 those are the centred taps too.
        self.cached = (inputs, _KERNEL - stride[0], bins)
        padding = (0 if causal else _KERNEL // 2, _KERNEL // 2)
        self.conv = nn.Conv2d(inputs, outputs, _KERNEL, stride=stride, padding=padding, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    @property
    def state_size(self) -> int:
        """Cached input frames, flattened."""
        return math.prod(self.cached)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Causal: x [B, C, T, F] with T divisible by the stride, state -> y, next state."""
        padded = torch.cat([state.reshape(-1, *self.cached), x], dim=2)
        return self(padded), padded[:, :, -self.cached[1] :].flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, T, F], whole utterances or (causal) with the cached frames before them."""
        y: Tensor = self.norm(self.conv(x))
        return y


class BasicBlock(nn.Module):
    """Two convolutions and a shortcut (He et al. 2016); arguments as of :class:`ConvNorm`."""

    def __init__(
        self, inputs: int, outputs: int, bins: int, *, stride: tuple[int, int], causal: bool
    ) -> None:
        super().__init__()
        self.first = ConvNorm(inputs, outputs, bins, stride=stride, causal=causal)
        self.second = ConvNorm(
            outputs, outputs, math.ceil(bins / stride[1]), stride=(1, 1), causal=causal
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != (1, 1) or inputs != outputs:
            # Takes the middle tap of the strided convolution, in either mode: no state.
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    @property
    def state_size(self) -> int:
        """Caches of both convolutions."""
        return self.first.state_size + self.second.state_size

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Causal: x [B, C, T, F] and state -> y at the block's strides, next state."""
        one, two = state.split([self.first.state_size, self.second.state_size], dim=1)
        y, one = self.first.step(x, one)
        y, two = self.second.step(torch.relu(y), two)
        return torch.relu(y + self.shortcut(x)), torch.cat([one, two], dim=1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Centred: x [B, C, T, F] zero where masked, mask [B, encoder frames, 1] -> such a y."""
        y = _masked(torch.relu(self.first(x)), mask)
        return _masked(torch.relu(self.second(y) + self.shortcut(x)), mask)


def _masked(x: Tensor, mask: Tensor) -> Tensor:
    """x [B, C, T, F], zero in frames that belong to encoder frames outside mask [B, n, 1].

    Batch norm makes padding non-zero, and the next centred convolution must not see that.
    """
    return x * mask.repeat_interleave(x.shape[2] // mask.shape[1], dim=1)[:, None]


class StatisticsPooling(nn.Module):
    """Mean and standard deviation over time: :class:`AttentiveStatsPooling` with even weights."""

    score_bound = 0.0

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    @property
    def state_size(self) -> int:
        """Count of frames, then mean and variance per channel."""
        return 1 + 2 * self.channels

    def step(self, x: Tensor, mask: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Statistics after each of n blocks.

        Args:
            x: [B, n*F, C].
            mask: [B, n, F, 1], 1.0 for valid frames.
            state: [B, 1 + 2 C].

        Returns:
            [B, n, 2 C] mean and deviation, and the next state.
        """
        seen, mean, variance = state.split([1, self.channels, self.channels], dim=1)
        x = x.reshape(*mask.shape[:3], -1)
        means = RunningMean.step(x, mask, seen, mean)
        squares = (x - mean[:, None, None]).square()  # about the old mean: less cancellation
        variances = RunningMean.step(squares, mask, seen, variance)
        variances = (variances - (means - mean[:, None]).square()).clamp(min=0.0)
        after = torch.cat([seen + mask.sum(dim=(1, 2)), means[:, -1], variances[:, -1]], dim=1)
        return torch.cat([means, torch.sqrt(variances + 1e-5)], dim=2), after

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Whole utterances: x [B, T, C], mask [B, T, 1] -> [B, 2 C]."""
        weight = mask / mask.sum(dim=1, keepdim=True).clamp(min=1.0)
        mean = (weight * x).sum(dim=1)
        variance = (weight * (x - mean[:, None]).square()).sum(dim=1)
        return torch.cat([mean, torch.sqrt(variance + 1e-5)], dim=1)


class ResNet(nn.Module):
    """Encoder and pooling: normalised fbank frames -> statistics of channels x frequency."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        channels, bins = config.width, BINS
        self.stem = ConvNorm(1, channels, bins, stride=(1, 1), causal=config.causal)
        self.blocks = nn.ModuleList()
        for stage, (count, time_stride) in enumerate(
            zip(config.blocks, config.time_strides, strict=True)
        ):
            stride = (time_stride, 1 if stage == 0 else 2)
            for _ in range(count):
                outputs = config.width << stage
                block = BasicBlock(channels, outputs, bins, stride=stride, causal=config.causal)
                self.blocks.append(block)
                channels, bins = outputs, math.ceil(bins / stride[1])
                stride = (1, 1)
        self.pooling: AttentiveStatsPooling | StatisticsPooling
        if config.pooling == "attentive":
            self.pooling = AttentiveStatsPooling(channels * bins, config.attention)
        else:
            self.pooling = StatisticsPooling(channels * bins)

    @property
    def outputs(self) -> int:
        """Width of the pooled statistics."""
        return 2 * self.pooling.channels

    @property
    def state_sizes(self) -> list[int]:
        """Floats per call of the stem, every block and the pooling, in the order of the state."""
        blocks = [int(block.state_size) for block in self.blocks]  # type: ignore[arg-type]
        return [self.stem.state_size, *blocks, self.pooling.state_size]

    def step(
        self,
        features: Tensor,
        mask: Tensor,
        seen: Tensor,  # noqa: ARG002 - Ecapa's; here the pooling's state knows
        state: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Statistics of all speech so far, after each of n blocks.

        Args:
            features: [B, n*F*stride, 80] normalised fbank frames.
            mask: [B, n, F, 1], 1.0 for valid encoder frames. Invalid ones come last in a call.
            seen: [B, 1] valid encoder frames before.
            state: [B, sum(state_sizes)].

        Returns:
            [B, n, outputs] and the next state.

        Raises:
            ValueError: the encoder is not causal.
        """
        if not self.config.causal:
            raise ValueError("causal=False: this encoder takes whole utterances only")
        first, *inner, last = state.split(self.state_sizes, dim=1)
        x, first = self.stem.step(features[:, None], first)
        x = torch.relu(x)
        states = [first]
        for block, before in zip(self.blocks, inner, strict=True):
            x, after = block.step(x, before)  # type: ignore[operator]
            states.append(after)
        pooled, last = self.pooling.step(_frames(x), mask, last)
        return pooled, torch.cat([*states, last], dim=1)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """Whole utterances: [B, T, 80] and [B, T/stride, 1] -> [B, outputs]."""
        if self.config.causal:
            zeros = features.new_zeros(len(features), sum(self.state_sizes))
            return self.step(features, mask[:, None], zeros[:, :1], zeros)[0][:, 0]
        x = _masked(features[:, None], mask)
        x = _masked(torch.relu(self.stem(x)), mask)
        for block in self.blocks:
            x = block(x, mask)
        pooled: Tensor = self.pooling(_frames(x), mask)
        return pooled


def _frames(x: Tensor) -> Tensor:
    """Maps [B, C, T, F] -> frames [B, T, C*F]."""
    return x.transpose(1, 2).flatten(2)
