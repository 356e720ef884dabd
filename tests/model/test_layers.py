import pytest
import torch

from model.layers import (
    AttentiveStatsPooling,
    DepthwiseConv,
    PointwiseNorm,
    RunningMean,
    SqueezeExcitation,
    folded_norm,
)


def with_statistics(module: torch.nn.Module) -> torch.nn.Module:
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm1d):
            torch.nn.init.normal_(part.running_mean)
            torch.nn.init.uniform_(part.running_var, 0.5, 2)
            torch.nn.init.normal_(part.weight)
            torch.nn.init.normal_(part.bias)
    return module.eval()


def test_folded_pointwise_equals_linear_then_norm():
    torch.manual_seed(1)
    layer = with_statistics(PointwiseNorm(5, 7))
    x = torch.randn(3, 4, 5)
    expected = layer.norm(layer.linear(x).reshape(-1, 7)).reshape(3, 4, 7)
    torch.testing.assert_close(layer(x), expected)


def test_depthwise_equals_torchs_causal_convolution():
    torch.manual_seed(2)
    layer = with_statistics(DepthwiseConv(6, kernel=5, dilation=3))
    x = torch.randn(2, 20, 6)
    conv = torch.nn.functional.conv1d(
        torch.nn.functional.pad(x.transpose(1, 2), (12, 0)),
        layer.weight.t()[:, None],
        dilation=3,
        groups=6,
    ).transpose(1, 2)
    scale, shift = folded_norm(layer.norm)
    y, _ = layer.step(x, torch.zeros(2, layer.state_size))
    torch.testing.assert_close(y, torch.relu(conv * scale + shift), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("cut", [1, 7, 13, 19])
def test_depthwise_in_two_steps_equals_one(cut):
    torch.manual_seed(3)
    layer = with_statistics(DepthwiseConv(6, kernel=5, dilation=2))
    x = torch.randn(2, 20, 6)
    zeros = torch.zeros(2, layer.state_size)
    whole, last = layer.step(x, zeros)
    first, state = layer.step(x[:, :cut], zeros)
    second, state = layer.step(x[:, cut:], state)
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole)
    torch.testing.assert_close(state, last)


def masked_blocks(seed: int, blocks: int = 5, last: int = 3):
    torch.manual_seed(seed)
    x = torch.randn(2, blocks, 8, 4) + 2
    mask = torch.ones(2, blocks, 8, 1)
    mask[:, -1, last:] = 0
    return x, mask


def test_running_mean_by_hand_at_once_and_block_by_block():
    x, mask = masked_blocks(12)
    means = RunningMean.step(x, mask, torch.zeros(2, 1), torch.zeros(2, 4))
    mean, seen = torch.zeros(2, 4), torch.zeros(2, 1)
    for k in range(5):
        frames = torch.cat([x[:, j][:, : int(mask[0, j].sum())] for j in range(k + 1)], dim=1)
        torch.testing.assert_close(means[:, k], frames.mean(dim=1))
        mean = RunningMean.advance(x[:, k], mask[:, k], seen, mean)
        seen = seen + mask[:, k].sum(dim=1)
        torch.testing.assert_close(mean, means[:, k])
    nothing = RunningMean.advance(x[:, 0], torch.zeros(2, 8, 1), seen, mean)
    assert torch.equal(nothing, mean)


def test_running_mean_drifts_nowhere_over_hours():
    """45,000 blocks are two hours; one float32 rounding of each in one direction would be 0.3 %."""
    mean, seen = torch.full((1, 3), 0.7), torch.full((1, 1), 8.0)
    x, mask = torch.full((1, 8, 3), 0.7), torch.ones(1, 8, 1)
    for _ in range(45_000):
        mean = RunningMean.advance(x, mask, seen, mean)
        seen = seen + 8
    torch.testing.assert_close(mean, torch.full((1, 3), 0.7), atol=1e-5, rtol=0)


def test_squeeze_excitation_block_by_block_equals_at_once():
    x, mask = masked_blocks(5)
    layer = SqueezeExcitation(4, 3)
    zeros = torch.zeros(2, 4)
    whole, last = layer.step(x.flatten(1, 2), mask, torch.zeros(2, 1), zeros)
    state, seen, parts = zeros, torch.zeros(2, 1), []
    for k in range(5):
        y, state = layer.step(x[:, k], mask[:, k : k + 1], seen, state)
        seen = seen + mask[:, k].sum(dim=1)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole)
    torch.testing.assert_close(state, last)


def test_running_pooling_equals_the_whole_utterance():
    x, mask = masked_blocks(6)
    layer = AttentiveStatsPooling(4, 3)
    whole = layer(x.reshape(2, 40, 4), mask.reshape(2, 40, 1))
    at_once, state_at_once = layer.step(x.flatten(1, 2), mask, torch.zeros(2, 12))
    torch.testing.assert_close(at_once[:, -1], whole, atol=1e-5, rtol=1e-5)
    state = torch.zeros(2, 12)
    for k in range(5):
        pooled, state = layer.step(x[:, k], mask[:, k : k + 1], state)
        torch.testing.assert_close(pooled[:, 0], at_once[:, k], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(state, state_at_once, atol=1e-5, rtol=1e-5)


def test_pooling_with_uniform_attention_is_mean_and_deviation():
    x, mask = masked_blocks(7, last=8)
    layer = AttentiveStatsPooling(4, 3)
    torch.nn.init.zeros_(layer.score.weight)
    pooled, _ = layer.step(x.flatten(1, 2), mask, torch.zeros(2, 12))
    frames = x.reshape(2, 40, 4)
    deviation = (frames.var(dim=1, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(pooled[:, -1], torch.cat([frames.mean(dim=1), deviation], dim=1))


def test_pooling_forgets_nothing_and_does_not_cancel_over_an_hour():
    """A small deviation on a large mean over 180,000 frames: sums of squares would lose it."""
    torch.manual_seed(8)
    layer = AttentiveStatsPooling(2, 2)
    torch.nn.init.zeros_(layer.score.weight)
    state = torch.zeros(1, 6)
    for _ in range(2250):
        x = 100 + 0.1 * torch.randn(1, 80, 2)
        pooled, state = layer.step(x, torch.ones(1, 1, 80, 1), state)
    torch.testing.assert_close(pooled[0, 0, :2], torch.full((2,), 100.0), atol=1e-2, rtol=0)
    torch.testing.assert_close(pooled[0, 0, 2:], torch.full((2,), 0.1), atol=5e-3, rtol=0)


def test_score_bound_is_reached_by_no_input():
    torch.manual_seed(9)
    layer = AttentiveStatsPooling(6, 4)
    score = layer.score(torch.tanh(layer.hidden(torch.randn(1000, 6) * 100)))
    assert score.abs().max() <= layer.score_bound
    assert score.abs().max() > 0.5 * layer.score_bound
