"""Kaldi log-mel filterbank (fbank) as two matrix products.

DC removal, pre-emphasis, window and DFT are linear in the samples of one frame, so they fold
into a single matrix; the squared DFT then meets the mel matrix. The same module is trained,
exported and served, which rules out train/serve skew. Reference: Kaldi ``compute-fbank-feats``
as in ``torchaudio.compliance.kaldi.fbank``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

SAMPLE_RATE = 8000
"""Hz. Telephone band; the server resamples everything to it."""
WIDEBAND_RATE = 16000
"""Hz, of the clean speech for a teacher."""
HOP = 80
"""Samples between frames: 10 ms."""
WINDOW = 200
"""Samples of one frame: 25 ms."""
CONTEXT = WINDOW - HOP
"""Samples of the past that the first frame of a block still needs: 15 ms."""
BINS = 80
_PREEMPHASIS = 0.97
_LOW_HZ = 20.0
_POWER_FLOOR = 1.1920928955078125e-07  # Kaldi's: the float32 epsilon


def _povey_window(window: int) -> Tensor:
    n = torch.arange(window, dtype=torch.float64)
    return (0.5 - 0.5 * torch.cos(2 * math.pi * n / (window - 1))) ** 0.85


def _dft_matrix(window: int, fft: int) -> Tensor:
    """[window, fft - 2]: samples of a frame -> real parts, then imaginary parts.

    Of all but the first and the last frequency, 0 and Nyquist, which no mel filter covers.
    """
    identity = torch.eye(window, dtype=torch.float64)
    frames = identity - identity.mean(dim=1, keepdim=True)  # row i: unit sample i, DC removed
    previous = torch.cat([frames[:, :1], frames[:, :-1]], dim=1)
    frames = (frames - _PREEMPHASIS * previous) * _povey_window(window)
    spectrum = torch.fft.rfft(frames, n=fft, dim=1)[:, 1:-1]
    return torch.cat([spectrum.real, spectrum.imag], dim=1)


def _mel(hertz: Tensor) -> Tensor:
    return 1127.0 * torch.log1p(hertz / 700.0)


def mel_edges(rate: int) -> Tensor:
    """float64 [BINS + 2]: where triangles begin, peak and end on Kaldi's mel scale, to Nyquist."""
    low, high = _mel(torch.tensor([_LOW_HZ, rate / 2], dtype=torch.float64))
    edges: Tensor = low + (high - low) / (BINS + 1) * torch.arange(BINS + 2, dtype=torch.float64)
    return edges


def _mel_matrix(rate: int, fft: int) -> Tensor:
    """[fft/2 - 1, BINS]: triangles equally spaced on Kaldi's mel scale, 20 Hz to Nyquist.

    The first bin lies below them, and Kaldi leaves the last one out.
    """
    bin_mel = _mel(torch.arange(1, fft // 2, dtype=torch.float64) * rate / fft)
    edges = mel_edges(rate)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    up = (bin_mel[:, None] - left) / (centre - left)
    down = (right - bin_mel[:, None]) / (right - centre)
    return torch.minimum(up, down).clamp(min=0.0)


class LogMel(nn.Module):
    """80-bin log-mel energies of 25 ms frames every 10 ms.

    Args:
        sample_rate: Hz, 8000 for telephone speech or 16000 for a teacher's.
    """

    def __init__(self, sample_rate: int = SAMPLE_RATE) -> None:
        super().__init__()
        self.hop = sample_rate * HOP // SAMPLE_RATE
        self.window = sample_rate * WINDOW // SAMPLE_RATE
        fft = 1 << (self.window - 1).bit_length()
        mel = _mel_matrix(sample_rate, fft)
        self.register_buffer("dft", _dft_matrix(self.window, fft).float(), persistent=False)
        # Twice the mel matrix: re^2 and im^2 are summed by the product itself.
        self.register_buffer("mel", torch.cat([mel, mel]).float(), persistent=False)
        self.dft: Tensor
        self.mel: Tensor

    def forward(self, samples: Tensor) -> Tensor:
        """Log-mel energies, natural log.

        Args:
            samples: [B, L] in [-1, 1], L >= one window. Streaming callers prepend window - hop
                samples of the past (zeros at the start), so that frames and hops are as many.

        Returns:
            [B, T, 80] with T = 1 + (L - window) // hop, as Kaldi with ``snip_edges``; floor -15.94.
        """
        batch, length = samples.shape
        hop, count = self.hop, 1 + (length - self.window) // self.hop
        # A frame is 2.5 hops: three shifted views of the hop grid beat a strided gather in ONNX.
        span, rest = count * hop, self.window - 2 * hop
        starts = (0, hop, hop + rest)
        hops = [samples[:, at : at + span].reshape(batch, count, hop) for at in starts]
        hops[2] = hops[2][:, :, hop - rest :]
        spectrum = torch.cat(hops, dim=2) @ self.dft
        power = spectrum * spectrum
        energies: Tensor = (power @ self.mel).clamp(min=_POWER_FLOOR).log()
        return energies
