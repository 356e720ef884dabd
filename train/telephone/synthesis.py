"""Backgrounds made from numbers, so that no recording needs to be shipped.

Each function takes ``(random, n)`` and gives float64 [n] at 8 kHz at no particular level.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len

from streamer.audio.codec import SAMPLE_RATE
from train.telephone.effect import samples_of

Floats = NDArray[np.float64]


def coloured(random: np.random.Generator, n: int, slope: float, corner: float = 60.0) -> Floats:
    """Gaussian noise whose power falls as 1 / f^slope above ``corner`` Hz and is flat below.

    Slope 0 is white, 1 pink, 2 brown.
    """
    length = next_fast_len(max(n, 2), real=True)
    bins = length // 2 + 1
    spectrum = random.standard_normal(2 * bins, np.float32).view(np.complex64)
    hertz = np.arange(bins, dtype=np.float32) * (SAMPLE_RATE / length)
    spectrum *= np.maximum(hertz, corner) ** np.float32(-slope / 2)
    spectrum[0] = 0.0
    wave: Floats = irfft(spectrum, length)[:n].astype(np.float64)
    return wave


def wandering(random: np.random.Generator, n: int, depth_db: float, seconds: float) -> Floats:
    """A gain about 1: ``depth_db`` is its standard deviation, ``seconds`` from value to value."""
    step = samples_of(seconds)
    points = n // step + 2
    gains = 10 ** (depth_db * random.standard_normal(points) / 20)
    return np.interp(np.arange(n), np.arange(points) * step, gains)


def line(random: np.random.Generator, n: int) -> Floats:
    """The hiss of an analogue line: white to faintly coloured, steady."""
    return coloured(random, n, random.uniform(0.0, 0.5))


def hum(random: np.random.Generator, n: int) -> Floats:
    """Mains hum: 50 or 60 Hz, its harmonics to 1 kHz and a little hiss; unbalanced lines."""
    mains = (50.0, 60.0)[int(random.integers(2))] * random.uniform(0.999, 1.001)
    cycle = np.arange(samples_of(1.0)) * (2 * np.pi / samples_of(1.0))
    steepness = random.uniform(0.5, 1.5)
    odd = random.uniform(1.0, 4.0)
    table = np.zeros(len(cycle))
    for harmonic in range(1, 21):
        amplitude = harmonic**-steepness * (odd if harmonic % 2 else 1.0)
        table += amplitude * np.sin(harmonic * cycle + random.uniform(0, 2 * np.pi))
    # The table is one period; at 8000 steps a nearest look-up is 60 dB clean.
    phase = (np.arange(n) * mains + random.uniform(0, SAMPLE_RATE)).astype(np.int64)
    wave: Floats = table[phase % len(table)] / table.std()
    return wave + 0.1 * _normed(coloured(random, n, 0.5))


def street(random: np.random.Generator, n: int) -> Floats:
    """Traffic: low-heavy noise that swells, and vehicles that pass within seconds."""
    wave = _normed(coloured(random, n, random.uniform(0.8, 1.4))) * wandering(random, n, 3.0, 1.0)
    t = np.arange(n) / SAMPLE_RATE
    swell = np.zeros(n)
    for _ in range(int(random.poisson(1 + n / SAMPLE_RATE / 5))):
        middle, width = random.uniform(0, t[-1] + 1e-3), random.uniform(0.5, 2.0)
        swell += random.uniform(0.5, 2.0) * np.exp(-0.5 * ((t - middle) / width) ** 2)
    return wave * (1.0 + swell)


def office(random: np.random.Generator, n: int) -> Floats:
    """Ventilation and keyboards: pinkish noise, and bursts of some milliseconds."""
    wave = _normed(coloured(random, n, random.uniform(0.6, 1.2)))
    key = samples_of(0.006)
    decay = np.exp(-np.arange(key) / (key / 4))
    for start in random.integers(0, max(1, n), int(random.poisson(3 * n / SAMPLE_RATE))).tolist():
        end = min(n, start + key)
        click = random.standard_normal(end - start) * decay[: end - start]
        wave[start:end] += random.uniform(2.0, 10.0) * click
    return wave


def car(random: np.random.Generator, n: int) -> Floats:
    """Inside a moving car: brown noise, most of it below 300 Hz, and the engine's order."""
    wave = _normed(coloured(random, n, random.uniform(1.6, 2.2)))
    engine = random.uniform(60, 180) * np.cumsum(wandering(random, n, 0.3, 1.0)) / SAMPLE_RATE
    return wave + random.uniform(0.2, 0.8) * np.sin(2 * np.pi * engine)


def music(random: np.random.Generator, n: int) -> Floats:
    """Hold music: a chord progression on an organ-like timbre over a bass, major or minor."""
    table = _timbre(random)
    beat = samples_of(random.uniform(0.35, 0.7))
    root = 55 * 2 ** (random.integers(12) / 12)
    third = int(random.integers(3, 5))
    progression = random.permutation(np.array([0, 5, 7, 9, 0]))
    shape = np.linspace(1.0, 0.3, beat)
    wave = np.zeros(n)
    start = int(random.integers(0, 4)) * beat
    for number, at in enumerate(range(0, n, beat)):
        length = min(beat, n - at)
        base = root * 2 ** (progression[(number + start // beat) // 4 % 5] / 12)
        # A broken chord: the bass throughout, two voices of the chord at a time.
        steps = (0, 12 + (0, third, 7, 12)[number % 4], 24 + (7, 0, third, 7)[number % 4])
        for step in steps:
            increment = base * 2 ** (step / 12) * len(table) / SAMPLE_RATE
            phase = (np.arange(length) * increment).astype(np.int64) % len(table)
            wave[at : at + length] += table[phase] * shape[:length]
    return wave


def _timbre(random: np.random.Generator) -> Floats:
    """One period of six harmonics, 2048 samples."""
    cycle = np.arange(2048) * (2 * np.pi / 2048)
    steepness = random.uniform(0.7, 2.0)
    table: Floats = sum((k**-steepness * np.sin(k * cycle) for k in range(1, 7)), np.zeros(2048))
    return table


def _normed(wave: Floats) -> Floats:
    scale = float(np.sqrt(np.square(wave).mean())) if len(wave) else 0.0
    return wave / scale if scale > 0.0 else wave
