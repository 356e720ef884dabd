import pytest
import torch
import torchaudio

from model.frontend import BINS, CONTEXT, HOP, WINDOW, LogMel


def kaldi(samples: torch.Tensor) -> torch.Tensor:
    return torchaudio.compliance.kaldi.fbank(
        samples[None], sample_frequency=8000, num_mel_bins=BINS, dither=0.0
    )


@pytest.mark.parametrize("length", [200, 279, 280, 1400, 8000, 12345])
@pytest.mark.parametrize("level", [1.0, 0.1, 0.001])
def test_equals_kaldi(length, level):
    torch.manual_seed(length)
    samples = torch.randn(length).clamp(-1, 1) * level
    ours = LogMel()(samples[None])[0]
    theirs = kaldi(samples)
    assert ours.shape == theirs.shape == (1 + (length - WINDOW) // HOP, BINS)
    torch.testing.assert_close(ours, theirs, atol=3e-3, rtol=0)


def test_equals_kaldi_on_a_tone_with_an_offset():
    t = torch.arange(4000) / 8000
    samples = 0.3 * torch.sin(2 * torch.pi * 440 * t) + 0.2
    ours, theirs = LogMel()(samples[None])[0], kaldi(samples)
    # Far from the tone a bin holds rounding errors: compare where there is energy.
    loud = theirs > theirs.max() - 12
    assert loud.float().mean() > 0.1
    torch.testing.assert_close(ours[loud], theirs[loud], atol=5e-3, rtol=0)


def test_silence_sits_on_the_floor():
    features = LogMel()(torch.zeros(1, 1000))
    torch.testing.assert_close(features, torch.full_like(features, -15.9424), atol=1e-3, rtol=0)


def test_blocks_with_context_equal_the_whole():
    samples = torch.randn(1, 4 * 1280) * 0.1
    padded = torch.nn.functional.pad(samples, (CONTEXT, 0))
    whole = LogMel()(padded)
    parts = [LogMel()(padded[:, i * 1280 : (i + 1) * 1280 + CONTEXT]) for i in range(4)]
    assert whole.shape[1] == 4 * 16
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=0)
