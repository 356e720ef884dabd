import numpy as np
import pytest

from streamer.codec import SAMPLE_RATE
from train.telephone import LEVEL_DB, at_level, band_limit, telephone


def tone(hertz, seconds=1.0, amplitude=8000):
    t = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return (amplitude * np.sin(2 * np.pi * hertz * t)).astype(np.int16)


def level_db(samples):
    return 20 * np.log10(np.sqrt(np.mean(samples[2000:].astype(float) ** 2)) / 32768)


@pytest.mark.parametrize("hertz", [60, 100])
def test_below_the_band_is_gone(hertz):
    assert level_db(band_limit(tone(hertz), 300, 3400)) < level_db(tone(hertz)) - 30


@pytest.mark.parametrize("hertz", [500, 1000, 2500])
def test_the_band_itself_passes(hertz):
    filtered, original = band_limit(tone(hertz), 300, 3400), tone(hertz)
    assert level_db(filtered) == pytest.approx(level_db(original), abs=0.5)


def test_band_edges_are_3_db_down():
    for hertz in (300, 3400):
        loss = level_db(tone(hertz)) - level_db(band_limit(tone(hertz), 300, 3400))
        assert loss == pytest.approx(3.0, abs=0.3)


@pytest.mark.parametrize("level", [-40.0, -26.0, -15.0])
def test_level_is_reached(level):
    assert level_db(at_level(tone(440), level)) == pytest.approx(level, abs=0.1)


def test_silence_stays_silence():
    assert not at_level(np.zeros(100, np.int16), -20.0).any()
    assert len(at_level(np.empty(0, np.int16), -20.0)) == 0


def test_same_generator_same_channel_and_other_generator_another():
    samples = tone(700)
    one = telephone(samples, np.random.default_rng(1))
    np.testing.assert_array_equal(one, telephone(samples, np.random.default_rng(1)))
    assert (one != telephone(samples, np.random.default_rng(2))).any()


def test_levels_and_both_laws_occur():
    levels = [level_db(telephone(tone(700), np.random.default_rng(n))) for n in range(60)]
    assert LEVEL_DB[0] - 1 < min(levels) < LEVEL_DB[0] + 5
    assert LEVEL_DB[1] - 5 < max(levels) < LEVEL_DB[1] + 1
    codes = [set(telephone(tone(700), np.random.default_rng(n)).tolist()) for n in range(20)]
    # Zero exists in mu-law alone; A-law's smallest values are +-8.
    assert any(0 in c for c in codes)
    assert any(0 not in c for c in codes)
