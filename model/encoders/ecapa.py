"""ECAPA-TDNN (Desplanques et al. 2020, arXiv 2005.07143), made streamable.

One family: the paper's encoder (Res2 groups, centred convolutions, utterance-wide statistics)
and the compact causal one that serves live calls (depthwise convolutions, stride-2 stem, running
statistics) are configurations of the same modules. Layout is [B, T, C] throughout.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.frontend import BINS
from model.layers import (
    AttentiveStatsPooling,
    DepthwiseConv,
    PointwiseNorm,
    SqueezeExcitation,
    newest,
)


@dataclass(frozen=True)
class EcapaConfig:
    """Shape of one encoder of the family.

    Attributes:
        channels: width C of the blocks.
        dilations: one block per entry, in encoder frames.
        kernel: taps of the temporal convolutions.
        res2_scale: groups of the Res2 convolution, or 0 for a depthwise one.
        stem_stride: fbank frames per encoder frame (2: the encoder runs at 20 ms).
        aggregated: width M of the multi-layer feature aggregation, pooled to 2 M.
        attention: bottleneck of the pooling's attention.
        squeeze: bottleneck of the squeeze-excitation.
        causal: streamable; else centred convolutions and utterance-wide statistics.
        global_context: attention that sees utterance statistics; needs ``causal=False``.

    Raises:
        ValueError: a combination that cannot be built; the message names the field.
    """

    channels: int = 160
    dilations: tuple[int, ...] = (1, 2, 3, 4)
    kernel: int = 5
    res2_scale: int = 0
    stem_stride: int = 2
    aggregated: int = 256
    attention: int = 64
    squeeze: int = 48
    causal: bool = True
    global_context: bool = False

    def __post_init__(self) -> None:
        if self.res2_scale and self.channels % self.res2_scale:
            raise ValueError(f"channels {self.channels} do not split into {self.res2_scale} groups")
        if self.causal and self.global_context:
            raise ValueError("global_context needs the whole utterance: set causal=False")


COMPACT = EcapaConfig()
"""The student's shape: 60 MFLOP per second of speech, front end included."""

ECAPA_512 = EcapaConfig(
    channels=512,
    dilations=(2, 3, 4),
    kernel=3,
    res2_scale=8,
    stem_stride=1,
    aggregated=1536,
    attention=128,
    squeeze=128,
    causal=False,
    global_context=True,
)
"""The published encoder at C=512 (6.19 M parameters with a 192-d embedding)."""


class DenseConv(nn.Module):
    """Convolution over time with batch norm and ReLU, as one matrix product over stacked taps."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, dilation: int, stride: int
    ) -> None:
        super().__init__()
        self.inputs, self.kernel, self.dilation, self.stride = inputs, kernel, dilation, stride
        self.context = (kernel - 1) * dilation + 1 - stride
        self.product = PointwiseNorm(inputs * kernel, outputs)

    @property
    def state_size(self) -> int:
        """Cached input frames, flattened."""
        return self.context * self.inputs

    def _convolve(self, padded: Tensor, frames: int) -> Tensor:
        last = (frames - 1) * self.stride + 1
        starts = [tap * self.dilation for tap in range(self.kernel)]
        taps = [padded[:, start : start + last : self.stride] for start in starts]
        return torch.relu(self.product(torch.cat(taps, dim=2)))

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, T, inputs] with T divisible by the stride -> [B, T/stride, outputs], state."""
        padded = torch.cat([state.reshape(-1, self.context, self.inputs), x], dim=1)
        y = self._convolve(padded, x.shape[1] // self.stride)
        return y, newest(padded, x, self.context).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Centred convolution of whole utterances."""
        half = self.context // 2
        padded = nn.functional.pad(x, (0, 0, half, self.context - half))
        return self._convolve(padded, x.shape[1] // self.stride)


class Res2Conv(nn.Module):
    """Res2 convolution: groups in a chain, each seeing the one before (Gao et al. 2019)."""

    def __init__(self, channels: int, kernel: int, dilation: int, scale: int) -> None:
        super().__init__()
        width = channels // scale
        convs = [
            DenseConv(width, width, kernel, dilation=dilation, stride=1) for _ in range(scale - 1)
        ]
        self.convs = nn.ModuleList(convs)
        self.width = width
        self.cache_size = convs[0].state_size

    @property
    def state_size(self) -> int:
        """Caches of all groups but the first, which is passed through."""
        return self.cache_size * len(self.convs)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, T, C] and state -> same shapes."""
        first, *groups = x.split(self.width, dim=2)
        caches = state.split(self.cache_size, dim=1)
        outputs, states = [first], []
        previous: Tensor | None = None
        for conv, group, cache in zip(self.convs, groups, caches, strict=True):
            previous, after = conv.step(  # type: ignore[operator]
                group if previous is None else group + previous, cache
            )
            outputs.append(previous)
            states.append(after)
        return torch.cat(outputs, dim=2), torch.cat(states, dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Centred, whole utterances."""
        first, *groups = x.split(self.width, dim=2)
        outputs = [first]
        previous: Tensor | None = None
        for conv, group in zip(self.convs, groups, strict=True):
            previous = conv(group if previous is None else group + previous)
            outputs.append(previous)
        return torch.cat(outputs, dim=2)


class Block(nn.Module):
    """Pointwise, temporal, pointwise, squeeze-excitation, residual: ECAPA's SE-Res2 block."""

    def __init__(self, config: EcapaConfig, dilation: int) -> None:
        super().__init__()
        c = config.channels
        self.expand = PointwiseNorm(c, c)
        self.temporal: Res2Conv | DepthwiseConv
        if config.res2_scale:
            self.temporal = Res2Conv(c, config.kernel, dilation, config.res2_scale)
        else:
            self.temporal = DepthwiseConv(c, config.kernel, dilation)
        self.project = PointwiseNorm(c, c)
        self.squeeze = SqueezeExcitation(c, config.squeeze)

    @property
    def state_size(self) -> int:
        """Temporal cache, then the squeeze-excitation's mean."""
        return self.temporal.state_size + self.squeeze.state_size

    def step(self, x: Tensor, mask: Tensor, seen: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, T, C], mask [B, n, F, 1] with n*F == T, seen [B, 1], state -> y, next state."""
        cache, mean = state.split([self.temporal.state_size, self.squeeze.state_size], dim=1)
        y = torch.relu(self.expand(x))
        y, cache = self.temporal.step(y, cache)
        gated, mean = self.squeeze.step(self.project(y), mask, seen, mean)
        return x + gated, torch.cat([cache, mean], dim=1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Whole utterances, x [B, T, C] and mask [B, T, 1] (not causal)."""
        y = torch.relu(self.expand(x)) * mask  # centred taps must not see padding
        gated: Tensor = self.squeeze(self.project(self.temporal(y)), mask)
        return x + gated


class Ecapa(nn.Module):
    """Encoder and pooling: normalised fbank frames -> attentive statistics, 2 M wide."""

    def __init__(self, config: EcapaConfig) -> None:
        super().__init__()
        self.config = config
        stem_kernel = 5
        self.stem = DenseConv(
            BINS,
            config.channels,
            stem_kernel,
            dilation=1,
            stride=config.stem_stride,
        )
        self.blocks = nn.ModuleList(Block(config, dilation) for dilation in config.dilations)
        self.aggregate = PointwiseNorm(config.channels * len(config.dilations), config.aggregated)
        self.pooling = AttentiveStatsPooling(
            config.aggregated, config.attention, global_context=config.global_context
        )

    @property
    def outputs(self) -> int:
        """Width of the pooled statistics."""
        return 2 * self.config.aggregated

    @property
    def state_sizes(self) -> list[int]:
        """Floats per call of the stem, every block and the pooling, in the order of the state."""
        blocks = [int(block.state_size) for block in self.blocks]  # type: ignore[arg-type]
        return [self.stem.state_size, *blocks, self.pooling.state_size]

    def step(
        self, features: Tensor, mask: Tensor, seen: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Statistics of all speech so far, after each of n blocks.

        Args:
            features: [B, n*F*stride, 80] normalised fbank frames.
            mask: [B, n, F, 1], 1.0 for valid encoder frames.
            seen: [B, 1] valid encoder frames before.
            state: [B, sum(state_sizes)].

        Returns:
            [B, n, 2 M] and the next state.
        """
        first, *inner, last = state.split(self.state_sizes, dim=1)
        x, first = self.stem.step(features, first)
        outputs, states = [], [first]
        for block, before in zip(self.blocks, inner, strict=True):
            x, after = block.step(x, mask, seen, before)  # type: ignore[operator]
            outputs.append(x)
            states.append(after)
        h = torch.relu(self.aggregate(torch.cat(outputs, dim=2)))
        pooled, last = self.pooling.step(h, mask, last)
        return pooled, torch.cat([*states, last], dim=1)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """Whole utterances (not causal): [B, T, 80] and [B, T/stride, 1] -> [B, 2 M]."""
        x = self.stem(features)
        outputs = []
        for block in self.blocks:
            x = block(x, mask)
            outputs.append(x)
        return self.pooling(torch.relu(self.aggregate(torch.cat(outputs, dim=2))), mask)  # type: ignore[no-any-return]
