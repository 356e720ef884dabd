"""Layers that give the same answer on a whole utterance and on one block at a time.

Every layer with memory has ``state_size`` (floats per call) and
``step(x, state) -> (y, state)``; zeros are the state of a call that has not begun. An offline
pass is one step over all frames from the zero state. Layout is channels last, [B, T, C], so
that every pointwise layer is one matrix product over B*T rows.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PointwiseNorm(nn.Module):
    """Linear map of each frame with batch normalisation folded into it when not training."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, bias=False)
        self.norm = nn.BatchNorm1d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        if self.training:
            y: Tensor = self.linear(x)
            normed: Tensor = self.norm(y.reshape(-1, y.shape[-1]))
            return normed.reshape(y.shape)
        weight, bias = self.folded()
        return x @ weight + bias

    def folded(self) -> tuple[Tensor, Tensor]:
        """The equivalent single layer: weight [inputs, outputs] and bias [outputs]."""
        scale, shift = folded_norm(self.norm)
        return (self.linear.weight * scale[:, None]).t(), shift


def folded_norm(norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    """Scale and shift, [C] each, of a batch normalisation with its running statistics."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale


class DepthwiseConv(nn.Module):
    """Dilated convolution along time, each channel by itself, then batch norm and ReLU.

    In training it is shifted multiply-adds, which on a CPU are faster backwards where dilated; a
    call is served by one convolution, less than half as dear (commit 02fa460).

    Args:
        channels: C.
        kernel: taps.
        dilation: frames between taps.
    """

    def __init__(self, channels: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.kernel, self.dilation = kernel, dilation
        self.channels = channels
        self.context = (kernel - 1) * dilation
        bound = kernel**-0.5
        self.weight = nn.Parameter(torch.empty(kernel, channels).uniform_(-bound, bound))
        self.norm = nn.BatchNorm1d(channels)

    @property
    def state_size(self) -> int:
        """Cached input frames, flattened."""
        return self.context * self.channels

    def _convolve(self, padded: Tensor, frames: int) -> Tensor:
        if not self.training:
            scale, bias = folded_norm(self.norm)
            weight = (self.weight * scale).t()[:, None, None]
            # As a picture of one row: ONNX Runtime has a kernel for that, and for its transposes.
            row = padded[:, None].permute(0, 3, 1, 2)
            convolved = torch.conv2d(
                row, weight, bias, dilation=(1, self.dilation), groups=self.channels
            )
            return torch.relu(convolved).permute(0, 2, 3, 1).flatten(1, 2)
        y = torch.zeros((), dtype=padded.dtype)
        for tap in range(self.kernel):
            start = tap * self.dilation
            y = y + padded[:, start : start + frames] * self.weight[tap]
        normed: Tensor = self.norm(y.reshape(-1, self.channels))
        return torch.relu(normed.reshape(y.shape))

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, T, C], state [B, state_size] -> y [B, T, C] and the next state."""
        padded = torch.cat([state.reshape(-1, self.context, self.channels), x], dim=1)
        y = self._convolve(padded, x.shape[1])
        return y, newest(padded, x, self.context).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Centred convolution of whole utterances [B, T, C] (not causal)."""
        half = self.context // 2
        return self._convolve(nn.functional.pad(x, (0, 0, half, self.context - half)), x.shape[1])


def newest(padded: Tensor, x: Tensor, count: int) -> Tensor:
    """The last ``count`` frames of ``padded`` [B, _, C], which ends with x [B, T, C]."""
    if x.shape[1] == count:  # not one copy in the exported graph
        return x
    return padded[:, -count:]


class RunningMean:
    """Mean over all valid frames so far, advanced by whole blocks.

    The state holds the mean, not a sum: hours of frames then lose no precision in float32.
    """

    @staticmethod
    def advance(x: Tensor, mask: Tensor, seen: Tensor, mean: Tensor) -> Tensor:
        """Running mean after one block: x [B, F, C], mask [B, F, 1], others as of :meth:`step`.

        Returns:
            [B, C], which is the next state.
        """
        total = (seen + mask.sum(dim=1)).clamp(min=1.0)
        share = (mask / total[:, None]).transpose(1, 2)  # of each frame in the mean
        return mean + ((share @ x).squeeze(1) - mean * share.sum(dim=2))

    @staticmethod
    def step(x: Tensor, mask: Tensor, seen: Tensor, mean: Tensor) -> Tensor:
        """Running means after each of n blocks.

        Args:
            x: [B, n, F, C] frames of n blocks.
            mask: [B, n, F, 1], 1.0 for valid frames.
            seen: [B, 1] valid frames before the first block.
            mean: [B, C] mean over them.

        Returns:
            [B, n, C]; the last row is the next state.
        """
        sums = (x * mask).sum(dim=2)
        total = (seen[:, None] + mask.sum(dim=2).cumsum(dim=1)).clamp(min=1.0)
        return ((mean * seen)[:, None] + sums.cumsum(dim=1)) / total


class SqueezeExcitation(nn.Module):
    """Channel gates from the running mean, renewed once a block (Hu et al. 2018, made causal)."""

    def __init__(self, channels: int, bottleneck: int) -> None:
        super().__init__()
        self.channels = channels
        self.squeeze = nn.Linear(channels, bottleneck)
        self.excite = nn.Linear(bottleneck, channels)

    @property
    def state_size(self) -> int:
        """The running mean."""
        return self.channels

    def gates(self, mean: Tensor) -> Tensor:
        """[..., C] means -> [..., C] factors in (0, 1)."""
        return torch.sigmoid(self.excite(torch.relu(self.squeeze(mean))))

    def step(self, x: Tensor, mask: Tensor, seen: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, n*F, C] -> gated x and the next state [B, C]; see :class:`RunningMean`."""
        if mask.shape[1] == 1:
            mean = RunningMean.advance(x, mask[:, 0], seen, state)
            return x * self.gates(mean)[:, None], mean
        blocks = x.reshape(*mask.shape[:3], -1)
        means = RunningMean.step(blocks, mask, seen, state)
        return (blocks * self.gates(means)[:, :, None]).reshape(x.shape), means[:, -1]

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Whole utterances: x [B, T, C], mask [B, T, 1]; one gate for all frames."""
        mean = (x * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1.0)
        return x * self.gates(mean)[:, None]


class AttentiveStatsPooling(nn.Module):
    """Channel-wise attentive mean and standard deviation (Desplanques et al. 2020).

    Running form: per channel the total weight W, the weighted mean and the weighted variance.
    A frame's score depends on that frame alone and is a bounded function of it (a linear map of
    tanh), so nothing already pooled ever changes and exp cannot overflow.

    Args:
        channels: C.
        bottleneck: width of the tanh layer.
        global_context: scores also see utterance mean and deviation (the paper's encoder);
            offline only.
    """

    def __init__(self, channels: int, bottleneck: int, *, global_context: bool = False) -> None:
        super().__init__()
        self.channels = channels
        self.global_context = global_context
        inputs = channels * 3 if global_context else channels
        self.hidden = nn.Linear(inputs, bottleneck)
        self.score = nn.Linear(bottleneck, channels)

    @property
    def state_size(self) -> int:
        """Weight, mean and variance per channel."""
        return 3 * self.channels

    @property
    def score_bound(self) -> float:
        """Largest absolute score any input can give; exp of it must stay a finite float32."""
        weight, bias = self.score.weight.detach(), self.score.bias.detach()
        return float((weight.abs().sum(dim=1) + bias.abs()).max())

    def step(self, x: Tensor, mask: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Statistics after each of n blocks.

        Args:
            x: [B, n*F, C].
            mask: [B, n, F, 1], 1.0 for valid frames.
            state: [B, 3 C].

        Returns:
            [B, n, 2 C] mean and deviation, and the next state.
        """
        weight, mean, variance = state.split(self.channels, dim=1)
        e = torch.exp(self.score(torch.tanh(self.hidden(x))))
        d = x - mean[:, None]  # about the old mean: no cancellation in the variance
        ed = e * d
        if mask.shape[1] == 1:
            row = mask[:, 0].transpose(1, 2)
            sums = [(row @ value).squeeze(1) for value in (e, ed, ed * d)]
            statistics, after = self._joined(weight, mean, variance, *sums)
            return statistics[:, None], torch.cat(after, dim=1)
        shape = (*mask.shape[:3], -1)
        sums = [(v.reshape(shape) * mask).sum(dim=2).cumsum(dim=1) for v in (e, ed, ed * d)]
        old = (value[:, None] for value in (weight, mean, variance))
        statistics, after = self._joined(*old, *sums)
        return statistics, torch.cat([value[:, -1] for value in after], dim=1)

    @staticmethod
    def _joined(
        weight: Tensor, mean: Tensor, variance: Tensor, w1: Tensor, s1: Tensor, s2: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """Pooled statistics [..., 2 C], and weight, mean and variance, each [..., C].

        ``w1``, ``s1`` and ``s2`` are the new frames' weight and their weighted first and second
        moment about ``mean``.
        """
        total = weight + w1
        inverse = 1.0 / total.clamp(min=1e-9)
        shift = s1 * inverse
        new_mean = mean + shift
        new_variance = variance * weight * inverse + s2 * inverse - shift * shift
        new_variance = new_variance.clamp(min=0.0)
        statistics = torch.cat([new_mean, torch.sqrt(new_variance + 1e-5)], dim=-1)
        return statistics, [total, new_mean, new_variance]

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Whole utterances: x [B, T, C], mask [B, T, 1] -> [B, 2 C]."""
        context = x
        if self.global_context:
            count = mask.sum(dim=1, keepdim=True).clamp(min=1.0)
            mean = (x * mask).sum(dim=1, keepdim=True) / count
            deviation = (
                ((x - mean) * mask).square().sum(dim=1, keepdim=True) / count + 1e-5
            ).sqrt()
            context = torch.cat([x, mean.expand_as(x), deviation.expand_as(x)], dim=2)
        score = self.score(torch.tanh(self.hidden(context)))
        weight = torch.softmax(score.masked_fill(mask == 0, -torch.inf), dim=1)
        mean = (weight * x).sum(dim=1)
        variance = (weight * (x - mean[:, None]).square()).sum(dim=1)
        return torch.cat([mean, torch.sqrt(variance + 1e-5)], dim=1)
