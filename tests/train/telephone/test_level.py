import numpy as np
import pytest

from train.telephone import Clipping, Drift, Level, active_level_db

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("wanted", [-38.0, -26.0, -16.0])
def test_the_level_is_that_of_the_speech_not_of_its_pauses(wanted, speech, level_db):
    heard = Level(wanted)(speech, RANDOM)
    spoken = np.arange(len(speech)) / 8000 % 2 < 1
    assert level_db(heard[spoken]) == pytest.approx(wanted, abs=0.5)
    assert active_level_db(heard) == pytest.approx(wanted, abs=0.1)


def test_silence_has_no_level():
    assert active_level_db(np.zeros(800, np.int16)) == -np.inf
    assert not Level(-20.0)(np.zeros(100, np.int16), RANDOM).any()


@pytest.mark.parametrize("overdrive", [3.0, 12.0])
def test_clipping_limits_by_the_overdrive(overdrive, speech):
    limit = np.abs(speech.astype(float)).max() * 10 ** (-overdrive / 20)
    hard, soft = Clipping(overdrive)(speech, RANDOM), Clipping(overdrive, soft=True)(speech, RANDOM)
    assert np.abs(hard).max() == pytest.approx(limit, abs=1)
    assert np.abs(soft).max() <= limit + 1
    untouched = np.abs(speech) < limit - 1
    np.testing.assert_array_equal(hard[untouched], speech[untouched])
    assert (np.abs(hard) >= limit - 1).sum() > 1


def test_drift_wanders_by_its_deviation_and_not_faster():
    steady = np.full(8000 * 600, 1000, np.int16)
    gain_db = 20 * np.log10(Drift(3.0, 1.0)(steady, np.random.default_rng(1)) / 1000)
    assert gain_db[::8000].std() == pytest.approx(3.0, abs=0.4)
    assert np.abs(np.diff(gain_db)).max() < 0.1
