import pytest
import torch

from model.frontend import BINS, mel_edges
from train.method.augment import ChannelTilt, FrequencyMask, FrequencyWarp


def test_frequency_mask_flattens_whole_bands():
    torch.manual_seed(0)
    features = torch.randn(4, 6, 80)
    masked = FrequencyMask(masks=1, widest=10)(features)
    changed = (masked != features).all(dim=1)
    assert changed.any()
    assert changed.sum(dim=1).max() <= 10
    flat = masked.std(dim=1) < 1e-6
    assert torch.equal(flat, changed)


def test_channel_tilt_is_constant_per_utterance():
    torch.manual_seed(0)
    gain = ChannelTilt(80)(torch.zeros(64, 5, 80))
    assert torch.equal(gain[:, 0], gain[:, 4])
    assert gain[:, 0].diff(dim=1).abs().max() < 0.2
    assert gain.std() == pytest.approx(3.0 * 0.2303 * 0.84, rel=0.3)


def test_frequency_warp_stretches_each_utterance():
    torch.manual_seed(0)
    centres = mel_edges(8000)[1:-1]
    hertz = 700.0 * torch.expm1(centres / 1127.0)
    features = torch.exp(-(((hertz - 1000.0) / 150.0) ** 2)).expand(64, 3, BINS).float()
    warped = FrequencyWarp(BINS, 8000, widest=0.1)(features)
    peaks = hertz[warped[:, 0].argmax(dim=1)]
    assert 895 < peaks.min() < 940
    assert 1060 < peaks.max() < 1120  # 1 / 0.9, to the nearest bin
    assert torch.equal(warped[:, 0], warped[:, 2])
    assert len(peaks.unique()) > 4


def test_frequency_warp_keeps_a_level():
    torch.manual_seed(0)
    level = torch.full((8, 2, BINS), -6.0)
    torch.testing.assert_close(FrequencyWarp(BINS, 16000, widest=0.2)(level), level)
    features = torch.randn(4, 3, BINS)
    assert FrequencyWarp(BINS, 8000, widest=0.0)(features) is features
