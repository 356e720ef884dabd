import numpy as np
import pytest

from train.telephone import Dtmf, RingBack
from train.telephone.tones import KEYS, RING_BACK

RANDOM = np.random.default_rng(0)


def power_at(samples, hertz):
    """Goertzel's measure: mean square of the sine of that frequency within the samples."""
    turn = np.exp(-2j * np.pi * hertz * np.arange(len(samples)) / 8000)
    return 2 * np.abs(np.mean(samples * turn)) ** 2


@pytest.mark.parametrize("digit", "".join(KEYS))
def test_each_key_has_its_two_frequencies_and_levels(digit):
    tone = Dtmf(before=True, level_db=-20, pause=0.1, digits=digit, on=0.1, off=0.1, twist_db=2)
    heard = tone(np.zeros(80, np.int16), RANDOM)
    key, powers = heard[:800].astype(float), {}
    for hertz in (697, 770, 852, 941, 1209, 1336, 1477, 1633):
        powers[hertz] = 10 * np.log10(power_at(key, hertz) / 32768**2)
    loudest = sorted(sorted(powers, key=powers.get)[-2:])
    row = next(n for n, keys in enumerate(KEYS) if digit in keys)
    column = KEYS[row].index(digit)
    assert loudest == [(697, 770, 852, 941)[row], (1209, 1336, 1477, 1633)[column]]
    assert powers[loudest[0]] == pytest.approx(-20, abs=0.5)
    assert powers[loudest[1]] == pytest.approx(-18, abs=0.5)
    assert tone.lead == 800 + 800 == len(heard) - 80


def test_keys_follow_each_other_with_pauses():
    tone = Dtmf(before=False, level_db=-20, pause=0.05, digits="15#", on=0.1, off=0.05)
    speech = np.full(400, 7, np.int16)
    heard = tone(speech, RANDOM)
    np.testing.assert_array_equal(heard[:400], speech)
    assert tone.lead == 0
    assert len(heard) == 400 + 400 + 3 * 800 + 2 * 400
    assert not heard[400:800].any()
    assert not heard[800 + 800 : 800 + 1200].any()
    assert heard[800 + 1200 : 800 + 2000].any()


@pytest.mark.parametrize("country", RING_BACK)
def test_ring_back_has_its_frequencies_and_cadence(country, level_db):
    hertz, cadence = RING_BACK[country]
    tone = RingBack(before=True, level_db=-22, pause=0.2, country=country, seconds=2 * sum(cadence))
    heard = tone(np.full(100, 5, np.int16), RANDOM)
    np.testing.assert_array_equal(heard[tone.lead :], np.full(100, 5))
    first = round(cadence[0] * 8000)
    for frequency in hertz:
        measured = power_at(heard[:first].astype(float), frequency)
        assert 10 * np.log10(measured / 32768**2) == pytest.approx(-22, abs=1.0)
    at = 0
    for number, seconds in enumerate(cadence * 2):
        part = heard[at + 20 : at + round(seconds * 8000) - 20]
        assert (level_db(part) > -30) == (number % 2 == 0)
        at += round(seconds * 8000)


def test_tones_do_not_click():
    # Above the keys' own frequencies nothing sounds, edges included.
    tone = Dtmf(before=True, level_db=-20, pause=0.1, digits="1*", on=0.1, off=0.1)
    spectrum = np.abs(np.fft.rfft(tone.wave() / 32768)) ** 2
    hertz = np.fft.rfftfreq(len(tone.wave()), 1 / 8000)
    assert 10 * np.log10(spectrum[hertz > 2500].sum() / spectrum.sum()) < -50


def test_keys_and_countries_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="'12x'"):
        Dtmf(before=True, level_db=-20, pause=0.1, digits="12x")
    with pytest.raises(ValueError, match=r"ring-back of 0\.0 s"):
        RingBack(before=True, level_db=-20, pause=0.1, seconds=0.0)
    with pytest.raises(ValueError, match=r"DTMF 0\.0 s on"):
        Dtmf(before=True, level_db=-20, pause=0.1, on=0.0)
    with pytest.raises(ValueError, match="'atlantis'"):
        RingBack(before=True, level_db=-20, pause=0.1, country="atlantis")
