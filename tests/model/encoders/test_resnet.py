import logging
import warnings
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.classifier import FRAMES_PER_BLOCK
from model.encoders.resnet import (
    _FRAMES_PER_BLOCK,
    RESNET_34,
    ResNet,
    ResNetConfig,
    StatisticsPooling,
)
from model.layers import AttentiveStatsPooling

SHAPES = {
    "attentive": ResNetConfig(width=4, blocks=(1, 2, 1, 1), attention=8),
    "statistics": ResNetConfig(width=4, blocks=(2, 1), time_strides=(2, 1), pooling="statistics"),
    "coarse": ResNetConfig(width=4, blocks=(1, 1, 1, 1), time_strides=(2, 2, 2, 2), attention=8),
}


def trained_looking(config):
    """Random weights, but batch-norm statistics as after training."""
    torch.manual_seed(0)
    encoder = ResNet(config).train()
    with torch.no_grad():
        for _ in range(10):
            encoder(torch.randn(8, 96, 80), torch.ones(8, 96 // config.stem_stride, 1))
    return encoder.eval()


@pytest.fixture(scope="module", params=SHAPES)
def encoder(request):
    return trained_looking(SHAPES[request.param])


@pytest.fixture(scope="module", params=["attentive", "statistics"])
def offline(request):
    config = ResNetConfig(
        width=4, blocks=(2, 1, 1, 1), attention=8, causal=False, pooling=request.param
    )
    return trained_looking(config)


def masked_blocks(encoder, blocks, valid):
    """mask [B, blocks, F, 1] with ``valid`` [B] encoder frames."""
    per_block = FRAMES_PER_BLOCK // encoder.config.stem_stride
    order = torch.arange(blocks * per_block).reshape(1, blocks, per_block, 1)
    return (order < torch.tensor(valid)[:, None, None, None]).float()


def stream(encoder, features, mask, groups):
    """Pooled [B, n, outputs] and the last state, of steps over ``groups`` blocks each."""
    state = torch.zeros(len(features), sum(encoder.state_sizes))
    seen, parts, start = torch.zeros(len(features), 1), [], 0
    for count in groups:
        blocks = slice(start, start + count)
        frames = slice(start * FRAMES_PER_BLOCK, (start + count) * FRAMES_PER_BLOCK)
        pooled, state = encoder.step(features[:, frames], mask[:, blocks], seen, state)
        seen = seen + mask[:, blocks].sum(dim=(1, 2))
        parts.append(pooled)
        start += count
    return torch.cat(parts, dim=1), state


def test_reference_has_the_published_parameter_count():
    """WeSpeaker's ResNet34-TSTP-256: 6.70 M with both layers of its embedding (two_emb_layer)."""
    encoder = ResNet(RESNET_34)
    assert encoder.outputs == 5120
    assert encoder.config.stem_stride == 8
    parts = (encoder, torch.nn.Linear(5120, 256), torch.nn.Linear(256, 256))
    counts = [sum(p.numel() for p in part.parameters()) for part in parts]
    assert sum(counts[:2]) == pytest.approx(6.70e6, rel=0.01)
    assert sum(counts) == pytest.approx(6.70e6, rel=0.001)


@settings(max_examples=15)
@given(seed=st.integers(0, 2**31), groups=st.lists(st.integers(1, 3), min_size=1, max_size=4))
def test_any_grouping_of_blocks_gives_the_offline_pass(encoder, seed, groups):
    """Both in every pooled row and in the state; the last block is a partial one."""
    blocks = sum(groups)
    features = torch.randn(
        2, blocks * FRAMES_PER_BLOCK, 80, generator=torch.Generator().manual_seed(seed)
    )
    per_block = FRAMES_PER_BLOCK // encoder.config.stem_stride
    mask = masked_blocks(encoder, blocks, [blocks * per_block, (blocks - 1) * per_block + 1])
    with torch.no_grad():
        whole, last = stream(encoder, features, mask, [blocks])
        parts, state = stream(encoder, features, mask, groups)
        offline = encoder(features, mask.flatten(1, 2))
    torch.testing.assert_close(parts, whole, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(state, last, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(parts[:, -1], offline, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("padded", [False, True])
def test_nothing_depends_on_later_frames(encoder, padded):
    """Neither on the next block nor, in a block, on the padding behind its last valid frame."""
    torch.manual_seed(1)
    stride = encoder.config.stem_stride
    features = torch.randn(1, 4 * FRAMES_PER_BLOCK, 80)
    other = features.clone()
    other[:, 3 * FRAMES_PER_BLOCK + (stride if padded else 0) :] += 7
    valid = 3 * FRAMES_PER_BLOCK // stride + 1 if padded else 1000
    mask = masked_blocks(encoder, 4, [valid])
    with torch.no_grad():
        a, b = (stream(encoder, x, mask, [4])[0] for x in (features, other))
    torch.testing.assert_close(a[:, :3], b[:, :3])
    assert torch.allclose(a[:, 3], b[:, 3], atol=1e-5) == padded


def test_caches_are_zero_padding_on_the_left():
    torch.manual_seed(3)
    block = trained_looking(ResNetConfig(width=4, blocks=(1, 1), time_strides=(1, 2))).blocks[1]
    x = torch.randn(2, 4, 12, 80)

    def conv(x, layer, left, stride):
        padded = torch.nn.functional.pad(x, (1, 1, left, 0))
        return layer.norm(torch.nn.functional.conv2d(padded, layer.conv.weight, stride=stride))

    y = conv(conv(x, block.first, 1, 2).relu(), block.second, 2, 1)
    y = torch.relu(y + block.shortcut(x))
    stepped, _ = block.step(x, torch.zeros(2, block.state_size))
    torch.testing.assert_close(stepped, y, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("frames", [1, 5, 12])
def test_offline_encoder_does_not_depend_on_padding(offline, frames):
    torch.manual_seed(frames)
    features = torch.randn(1, 16 * 8, 80)
    mask = (torch.arange(16) < frames).float()[None, :, None]
    with torch.no_grad():
        padded = offline(features, mask)
        alone = offline(features[:, : frames * 8], mask[:, :frames])
    torch.testing.assert_close(padded, alone, atol=1e-4, rtol=1e-4)


def test_offline_encoder_looks_ahead(offline):
    """Unlike the causal one: encoder frame 0, fbank frames 0 to 7, depends on those from 16 on."""
    features = torch.randn(1, 32, 80)
    other = features.clone()
    other[:, 16:] += 1
    with torch.no_grad():
        maps = [torch.relu(offline.stem(x[:, None])) for x in (features, other)]
        for block in offline.blocks:
            maps = [block(x, torch.ones(1, 4, 1)) for x in maps]
    assert not torch.allclose(maps[0][:, :, 0], maps[1][:, :, 0])


def test_offline_encoder_refuses_to_step(offline):
    state = torch.zeros(1, sum(offline.state_sizes))
    with pytest.raises(ValueError, match="causal=False"):
        offline.step(torch.zeros(1, 16, 80), torch.ones(1, 1, 2, 1), torch.zeros(1, 1), state)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("pooling", ["attentive", "statistics"])
def test_every_parameter_gets_a_gradient(causal, pooling):
    torch.manual_seed(4)
    config = replace(SHAPES["attentive"], causal=causal, pooling=pooling)
    encoder = ResNet(config).train()
    encoder(torch.randn(3, 32, 80), torch.ones(3, 4, 1)).square().sum().backward()
    # The pooling's score bias shifts every frame's score alike, which softmax undoes.
    names = {n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.any()}
    assert names <= {"pooling.score.bias"}


def test_statistics_are_those_of_attention_that_is_even():
    torch.manual_seed(5)
    x, mask = torch.randn(2, 4, 2, 6) + 3, torch.ones(2, 4, 2, 1)
    mask[:, -1, 1:] = 0
    attentive, plain = AttentiveStatsPooling(6, 2), StatisticsPooling(6)
    torch.nn.init.zeros_(attentive.score.weight)
    frames = x.flatten(1, 2)
    expected, _ = attentive.step(frames, mask, torch.zeros(2, attentive.state_size))
    pooled, _ = plain.step(frames, mask, torch.zeros(2, plain.state_size))
    torch.testing.assert_close(pooled, expected, atol=1e-5, rtol=1e-5)
    whole = plain(frames, mask.flatten(1, 2))
    torch.testing.assert_close(pooled[:, -1], whole, atol=1e-5, rtol=1e-5)
    assert plain.score_bound == 0


def test_statistics_do_not_cancel_over_an_hour():
    torch.manual_seed(6)
    layer = StatisticsPooling(2)
    state = torch.zeros(1, layer.state_size)
    for _ in range(1000):
        x = 100 + 0.1 * torch.randn(1, 45, 2)
        pooled, state = layer.step(x, torch.ones(1, 1, 45, 1), state)
    torch.testing.assert_close(pooled[0, 0, :2], torch.full((2,), 100.0), atol=1e-2, rtol=0)
    torch.testing.assert_close(pooled[0, 0, 2:], torch.full((2,), 0.1), atol=5e-3, rtol=0)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("width", {"width": 0}),
        ("blocks", {"blocks": ()}),
        ("blocks", {"blocks": (1, 0), "time_strides": (1, 2)}),
        ("time_strides", {"blocks": (1, 1)}),
        ("time_strides", {"time_strides": (1, 2, 3, 1)}),
        ("time_strides", {"blocks": (1,) * 6, "time_strides": (2,) * 6}),
        ("pooling", {"pooling": "max"}),
        ("attention", {"attention": 0}),
    ],
)
def test_what_cannot_be_built_is_refused(field, values):
    with pytest.raises(ValueError, match=f"^{field} "):
        ResNetConfig(**values)


def test_strides_divide_the_students_block():
    assert _FRAMES_PER_BLOCK == FRAMES_PER_BLOCK


class Step(torch.nn.Module):
    """One block with the count of frames inside the state, as the exporter sees the encoder."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, features, mask, state):
        pooled, after = self.encoder.step(features, mask, state[:, :1], state[:, 1:])
        return pooled[:, 0], torch.cat([state[:, :1] + mask.sum(dim=(1, 2)), after], dim=1)


def test_step_exports_with_any_batch(tmp_path):
    """All strides and the pooling that the ECAPAs, exported elsewhere, do not have."""
    encoder = trained_looking(replace(SHAPES["coarse"], pooling="statistics"))
    path, size = tmp_path / "step.onnx", 1 + sum(encoder.state_sizes)
    per_block = FRAMES_PER_BLOCK // encoder.config.stem_stride
    batch = torch.export.Dim("batch", min=1)
    names = ["features", "mask", "state"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        torch.onnx.export(
            Step(encoder),
            (
                torch.zeros(2, FRAMES_PER_BLOCK, 80),
                torch.ones(2, 1, per_block, 1),
                torch.zeros(2, size),
            ),
            path,
            input_names=names,
            output_names=["pooled", "state_out"],
            dynamic_shapes={name: {0: batch} for name in names},
            dynamo=True,
            verbose=False,
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    for calls in (1, 3):
        features = torch.randn(calls, 3 * FRAMES_PER_BLOCK, 80)
        mask = masked_blocks(encoder, 3, [2 * per_block + 1] * calls)
        with torch.no_grad():
            expected, _ = stream(encoder, features, mask, [3])
        state = np.zeros((calls, size), np.float32)
        for k in range(3):
            block = features[:, k * FRAMES_PER_BLOCK : (k + 1) * FRAMES_PER_BLOCK].numpy()
            inputs = {"features": block, "mask": mask[:, k : k + 1].numpy(), "state": state}
            pooled, state = session.run(None, inputs)
            np.testing.assert_allclose(pooled, expected[:, k].numpy(), atol=1e-4, rtol=1e-4)
