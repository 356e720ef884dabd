"""Voice features: pitch and formants of made voices, and what cannot be judged."""

import numpy as np
import pytest
from scipy.signal import lfilter

from train.label_quality.voice import FEATURES, MEDIAN_PITCH, RATE, describe, hertz


def vowel(pitch, formants=(700, 1200, 2500, 3500), seconds=1.0, seed=0, glide=0.1):
    """Band-limited glottal pulses through resonances, int16 at 8 kHz."""
    random = np.random.default_rng(seed)
    t = np.arange(int(seconds * RATE)) / RATE
    phase = 2 * np.pi * np.cumsum(pitch * (1 + glide * np.sin(2 * np.pi * 3 * t)) / RATE)
    harmonics = np.arange(1, int(3500 / (pitch * (1 + glide))))
    wave = np.cos(harmonics[:, None] * phase).sum(axis=0) + 0.03 * random.standard_normal(len(t))
    for centre in formants:
        radius = np.exp(-np.pi * 90 / RATE)
        poles = [1, -2 * radius * np.cos(2 * np.pi * centre / RATE), radius**2]
        wave = lfilter([sum(poles)], poles, wave)
    return (wave / np.abs(wave).max() * 12000).astype(np.int16)


@pytest.mark.parametrize("pitch", [75, 110, 165, 230, 330, 440])
def test_pitch_of_made_voices(pitch):
    row = describe(vowel(pitch, seed=pitch))
    assert hertz(row[MEDIAN_PITCH]) == pytest.approx(pitch, rel=0.04)
    assert hertz(row[FEATURES.index("pitch_95")]) < 1.2 * pitch  # no octave above
    assert hertz(row[FEATURES.index("pitch_5")]) > 0.8 * pitch  # and none below


def test_pitch_without_its_fundamental():
    """A telephone cuts what is below 300 Hz; the harmonics still tell."""
    spectrum = np.fft.rfft(vowel(110, seconds=2).astype(float))
    hz = np.fft.rfftfreq(2 * RATE, 1 / RATE)
    spectrum[(hz < 300) | (hz > 3400)] = 0
    row = describe(np.fft.irfft(spectrum).astype(np.int16))
    assert hertz(row[MEDIAN_PITCH]) == pytest.approx(110, rel=0.04)


def test_formants_follow_the_vocal_tract():
    def second(scale):
        formants = tuple(scale * f for f in (500, 1500, 2500, 3300))
        return describe(vowel(140, formants))[FEATURES.index("formant_2_median")]

    assert second(1.0) == pytest.approx(1.5, abs=0.1)
    assert second(1.15) == pytest.approx(1.72, abs=0.12)


def test_loudness_does_not_matter():
    loud = describe(vowel(120))
    quiet = describe((vowel(120) // 8).astype(np.int16))
    np.testing.assert_allclose(quiet[:8], loud[:8], atol=0.05)


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros(0, np.int16),
        np.zeros(100, np.int16),
        np.zeros(8000, np.int16),
        np.random.default_rng(1).normal(0, 3000, 16000).astype(np.int16),
        vowel(120, seconds=0.15),
    ],
    ids=["empty", "shorter than a frame", "silence", "noise", "150 ms"],
)
def test_without_voice_there_is_nothing_to_judge(samples):
    row = describe(samples)
    assert row.shape == (len(FEATURES),)
    assert np.isnan(row).all()


def test_all_features_of_a_voice_are_finite():
    row = describe(vowel(200))
    assert row.dtype == np.float32
    assert np.isfinite(row).all()
