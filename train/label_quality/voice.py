"""What a voice sounds like, in a few dozen numbers that no label has touched.

Pitch by the window-compensated autocorrelation of Boersma (1993), formants by linear prediction,
spectral shape by cepstra. They exist to judge labels and audio, so nothing here is trained, and
nothing needs more than NumPy and SciPy. A second of speech costs about 1.5 ms.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct

VERSION = 1
"""Of the features; a change of any of them needs a new one, so that no cache is misread."""
RATE = 8000
"""Hz: what a telephone leaves, so that telephone and wideband corpora compare."""
FRAME, HOP, FFT = 384, 80, 640
"""Samples: 48 ms is three periods of the lowest pitch sought; 640 leaves room for every lag."""
LOWEST_HZ, HIGHEST_HZ = 62.5, 500.0
"""Pitch sought; a deep bass to a small child."""
VOICED = 0.55
"""Normalised autocorrelation from which a frame is voiced."""
LOUD_DB = 30.0
"""Frames this far below the utterance's loud ones are pauses."""
FORMANT_FRAMES = 60
"""Voiced frames, evenly spread, whose formants are computed."""
LEAST_VOICED = 15
"""Voiced frames (150 ms) below which an utterance cannot be judged."""
_BANDS, _CEPSTRA, _ORDER, _FORMANTS = 32, 16, 10, 4
_OCTAVE_COST = 0.88  # a shorter lag wins with this share of the best peak: against halved pitch

FEATURES = (
    *(f"pitch_{q}" for q in (5, 25, 50, 75, 95)),
    "pitch_spread",
    "voiced_share",
    "clarity",
    *(f"formant_{n}_{q}" for n in range(1, _FORMANTS + 1) for q in ("low", "median", "high")),
    *(f"cepstrum_{n}_mean" for n in range(1, _CEPSTRA)),
    *(f"cepstrum_{n}_std" for n in range(1, _CEPSTRA)),
)
"""Names of the columns. Pitch in octaves above 100 Hz, formants in kHz, cepstra of natural logs."""
MEDIAN_PITCH = FEATURES.index("pitch_50")

Floats = NDArray[np.floating[Any]]
Vector = NDArray[np.float32]

_WINDOW = np.hanning(FRAME + 2)[1:-1]
_FINE = 2  # lags between samples: at 440 Hz half a sample loses the peak to twice the period
_LAGS = np.arange(int(_FINE * RATE / HIGHEST_HZ) - 1, int(_FINE * RATE / LOWEST_HZ) + 2)


def _window_autocorrelation() -> Floats:
    power = np.abs(np.fft.rfft(_WINDOW, FFT)) ** 2
    correlation = np.fft.irfft(power, _FINE * FFT)
    normalised: Floats = correlation / correlation[0]
    return normalised


def _mel_matrix() -> Floats:
    """[FFT/2+1, bands]: triangles equally spaced in mel between 100 Hz and 3.8 kHz."""
    hertz = np.arange(FFT // 2 + 1) * RATE / FFT
    mel = 1127 * np.log1p(hertz / 700)
    edges = np.linspace(1127 * np.log1p(100 / 700), 1127 * np.log1p(3800 / 700), _BANDS + 2)
    up = (mel[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    down = (edges[2:] - mel[:, None]) / (edges[2:] - edges[1:-1])
    matrix: Floats = np.maximum(0, np.minimum(up, down))
    return matrix


_WINDOW_R = _window_autocorrelation()
_MEL = _mel_matrix()
_EMPHASIS = np.abs(1 - 0.97 * np.exp(-1j * np.linspace(0, np.pi, FFT // 2 + 1))) ** 2


def hertz(octaves: float) -> float:
    """Pitch feature (octaves above 100 Hz) as Hz."""
    return 100.0 * math.exp2(octaves)


def _power(samples: NDArray[np.int16]) -> Floats:
    """Power spectra [frames, FFT/2+1] of the frames that are not pauses."""
    if len(samples) < FRAME:
        return np.empty((0, FFT // 2 + 1))
    signal = samples.astype(np.float32) / np.float32(32768)
    frames = np.lib.stride_tricks.sliding_window_view(signal, FRAME)[::HOP]
    frames = frames - frames.mean(axis=1, keepdims=True)
    energy = np.square(frames).mean(axis=1)
    loud = np.quantile(energy, 0.9)
    kept = frames[(energy > loud * 10 ** (-LOUD_DB / 10)) & (energy > 1e-9)]
    power: Floats = np.abs(np.fft.rfft(kept * _WINDOW.astype(np.float32), FFT, axis=1)) ** 2
    return power


def pitch_track(power: Floats) -> tuple[Floats, Floats]:
    """Pitch and clarity of each frame.

    Args:
        power: [frames, FFT/2+1] of windowed frames.

    Returns:
        Pitch in Hz [frames] and the normalised autocorrelation at it [frames], about 0 to 1;
        a frame is voiced from :data:`VOICED` on.
    """
    correlation = np.fft.irfft(power, _FINE * FFT, axis=1)[:, : _LAGS[-1] + 1]
    correlation /= np.maximum(correlation[:, :1], 1e-12)
    candidates = (correlation / _WINDOW_R[: _LAGS[-1] + 1])[:, _LAGS]
    before, here, after = candidates[:, :-2], candidates[:, 1:-1], candidates[:, 2:]
    peaks = np.where((here >= before) & (here > after), here, 0.0)
    best = peaks.max(axis=1, keepdims=True, initial=0.0)
    first = (peaks >= np.maximum(_OCTAVE_COST * best, 1e-6)).argmax(axis=1)
    rows = np.arange(len(power))
    left, top, right = before[rows, first], here[rows, first], after[rows, first]
    bend = left - 2 * top + right
    shift = np.where(bend < 0, 0.5 * (left - right) / np.where(bend < 0, bend, -1.0), 0.0)
    clarity = np.where(best[:, 0] > 0, top, 0.0)
    return _FINE * RATE / (_LAGS[1:-1][first] + np.clip(shift, -0.5, 0.5)), clarity


def _formants(power: Floats) -> Floats:
    """Resonances of each frame in kHz, ascending, [frames, 4]; NaN where fewer were found."""
    correlation = np.fft.irfft(power * _EMPHASIS, axis=1)[:, : _ORDER + 1]
    correlation[:, 0] *= 1.0001
    index = np.abs(np.arange(_ORDER)[:, None] - np.arange(_ORDER))
    taps = np.linalg.solve(correlation[:, index], correlation[:, 1:, None])[..., 0]
    companion = np.zeros((len(power), _ORDER, _ORDER))
    companion[:, 0] = taps
    companion[:, np.arange(1, _ORDER), np.arange(_ORDER - 1)] = 1.0
    roots = np.linalg.eigvals(companion)
    frequency = np.angle(roots) * RATE / (2000 * np.pi)
    width = -np.log(np.maximum(np.abs(roots), 1e-9)) * RATE / np.pi
    real = (frequency > 0.15) & (frequency < 3.85) & (width < 600)
    found: Floats = np.sort(np.where(real, frequency, np.nan), axis=1)[:, :_FORMANTS]
    return found


def describe(samples: NDArray[np.int16]) -> Vector:
    """Features of one utterance.

    Args:
        samples: int16 [n] at :data:`RATE`.

    Returns:
        float32 [len(FEATURES)], all finite; or all NaN where less than 150 ms of it is voiced,
        which cannot be judged.
    """
    power = _power(samples)
    pitch, clarity = pitch_track(power)
    voiced = clarity >= VOICED
    if voiced.sum() < LEAST_VOICED:
        return np.full(len(FEATURES), np.nan, np.float32)
    octaves = np.log2(pitch[voiced] / 100)
    spoken = power[voiced]
    chosen = np.linspace(0, len(spoken) - 1, min(len(spoken), FORMANT_FRAMES)).astype(int)
    tracks = _formants(spoken[chosen])
    quantiles = np.array([_quantiles(track) for track in tracks.T])
    cepstra = dct(np.log(spoken @ _MEL + 1e-8), norm="ortho", axis=1)[:, 1:_CEPSTRA]
    return np.concatenate(
        [
            np.quantile(octaves, (0.05, 0.25, 0.5, 0.75, 0.95)),
            [octaves.std(), voiced.mean(), clarity[voiced].mean()],
            quantiles.ravel(),
            cepstra.mean(axis=0),
            cepstra.std(axis=0),
        ]
    ).astype(np.float32)


def _quantiles(track: Floats) -> Floats:
    """Quartiles of a formant; 4 kHz, the end of the band, where no frame has it."""
    found = track[np.isfinite(track)]
    return np.quantile(found, (0.25, 0.5, 0.75)) if len(found) else np.full(3, RATE / 2000)
