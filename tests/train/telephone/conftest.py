"""Speech-like input that we make ourselves, and measures that share nothing with the code."""

import numpy as np
import pytest

RATE = 8000


def make_speech(seconds: float, seed: int, pauses: bool = True) -> np.ndarray:
    """Harmonics of a moving pitch in syllables; with pauses, each second second is silent."""
    random = np.random.default_rng(seed)
    t = np.arange(round(seconds * RATE)) / RATE
    pitch = random.uniform(100, 220) * (1 + 0.08 * np.sin(2 * np.pi * 0.7 * t))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    wave = sum(np.sin(k * phase + random.uniform(0, 6)) / k for k in range(1, 16))
    # Another vowel every 0.3 s and a little breath, without which codecs find it too easy.
    colour = np.repeat(random.uniform(0.3, 1.0, len(t) // 2400 + 1), 2400)[: len(t)]
    wave = wave * colour * (0.6 + 0.4 * np.sin(2 * np.pi * 3.5 * t))
    wave += 0.05 * random.standard_normal(len(t)) * colour
    if pauses:
        wave *= (t % 2) < 1
    return np.rint(2500 * wave).astype(np.int16)


@pytest.fixture(scope="session")
def speech():
    """Four seconds, of which the first and third are spoken."""
    return make_speech(4.0, seed=3)


@pytest.fixture(scope="session")
def talk():
    """``talk(seconds, seed)``: speech without pauses."""
    return lambda seconds, seed=0: make_speech(seconds, seed, pauses=False)


@pytest.fixture(scope="session")
def talker():
    """A source of other talkers, as the loader would give."""

    def source(random: np.random.Generator, n: int) -> np.ndarray:
        return make_speech(n / RATE + 0.01, int(random.integers(1000)), pauses=False)[:n]

    return source


def _db(power):
    return 10 * np.log10(np.maximum(power, 1e-12))


@pytest.fixture(scope="session")
def snr_db():
    """Signal-to-noise ratio of a copy against its original, decibels."""

    def measure(original, copy):
        original, copy = original.astype(float), copy.astype(float)
        return _db(np.sum(original**2)) - _db(np.sum((copy - original) ** 2))

    return measure


@pytest.fixture(scope="session")
def level_db():
    """Root mean square, dB relative to full scale."""
    return lambda samples: _db(np.mean(samples.astype(float) ** 2) / 32768**2)
