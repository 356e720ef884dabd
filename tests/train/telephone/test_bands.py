import numpy as np
import pytest
from scipy.signal import welch

from train.telephone import Handset, TrunkBand

RANDOM = np.random.default_rng(0)


def gain_db(effect):
    """Welch spectrum of what noise became, over that of the noise; [hertz], [dB]."""
    noise = np.random.default_rng(5).normal(0, 5000, 400_000).astype(np.int16)
    hertz, before = welch(noise, 8000, nperseg=1024, detrend=False)
    after = welch(effect(noise, RANDOM), 8000, nperseg=1024, detrend=False)[1]
    return hertz, 10 * np.log10(np.maximum(after, 1e-9) / before)


@pytest.mark.parametrize("order", [4, 5, 6])
@pytest.mark.parametrize(("low", "high"), [(180, 3200), (300, 3400), (350, 3600)])
def test_outside_the_band_the_spectrum_is_30_db_down_and_inside_it_passes(low, high, order):
    hertz, gain = gain_db(TrunkBand(low, high, order))
    outside = (hertz < 0.55 * low) | (hertz > (high + 4000) / 2)
    inside = (hertz > 1.05 * low) & (hertz < 0.98 * high)
    assert outside.sum() > 30
    assert gain[outside].max() < -30
    assert np.abs(gain[inside]).max() < 1.0


def test_the_default_handset_sends_as_the_intermediate_reference_system_does():
    # ITU-T P.48, table 2, sending: dB V/Pa relative to 1 kHz.
    reference = {300: -7.6, 500: -3.2, 800: -1.2, 1250: 1.4, 2000: 4.0, 2500: 5.5, 3000: 5.2}
    hertz, gain = gain_db(Handset())
    at_1000 = np.interp(1000, hertz, gain)
    for frequency, expected in reference.items():
        assert np.interp(frequency, hertz, gain) - at_1000 == pytest.approx(expected, abs=1.0)
    assert at_1000 == pytest.approx(0, abs=0.3)


@pytest.mark.parametrize(("tilt", "sign"), [(-6.0, -1), (10.0, 1)])
def test_tilt_and_presence_are_what_they_say(tilt, sign):
    hertz, gain = gain_db(Handset(60, tilt, 0.0, 2000))
    rise = np.interp(3800, hertz, gain) - np.interp(200, hertz, gain)
    assert sign * rise == pytest.approx(abs(tilt), abs=1.0)
    hertz, gain = gain_db(Handset(60, 0.0, 6.0, 2000))
    assert np.interp(2000, hertz, gain) - np.interp(300, hertz, gain) == pytest.approx(6, abs=0.5)


@pytest.mark.parametrize(("low", "high"), [(0, 3400), (3400, 300), (300, 4000)])
def test_a_band_that_is_none_is_refused(low, high):
    with pytest.raises(ValueError, match=f"band {low}-{high} Hz"):
        TrunkBand(low, high)
