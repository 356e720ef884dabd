from itertools import pairwise

import numpy as np
import pytest

from train.telephone import Concealment, PacketLoss, conceal
from train.telephone.packets import pitch_lag

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize(
    "loss",
    [
        PacketLoss(0.01),
        PacketLoss(0.05, burst=1.0),
        PacketLoss(0.1, burst=4.0, density=0.6),
        PacketLoss(0.12, burst=1.2, density=0.5),
    ],
    ids=str,
)
def test_loss_rate_lies_within_its_confidence_interval(loss):
    packets = 200_000
    lost = loss.lost(packets, np.random.default_rng(18))
    # Variance of the mean of a two-state Markov chain, thinned: neighbours are correlated.
    bad = loss.rate / loss.density
    memory = 1 - loss.to_bad - 1 / loss.burst
    together = loss.density**2 * bad * (1 - bad) * memory / (1 - memory)
    deviation = np.sqrt((loss.rate * (1 - loss.rate) + 2 * together) / packets)
    assert abs(lost.mean() - loss.rate) < 3.3 * deviation


def test_loss_comes_in_bursts_of_the_mean_length_asked_for():
    loss = PacketLoss(0.05, burst=3.0)
    lost = loss.lost(200_000, np.random.default_rng(4))
    edges = np.flatnonzero(np.diff(np.concatenate([[False], lost, [False]])))
    lengths = edges[1::2] - edges[::2]
    deviation = np.sqrt(3.0 * 2.0 / len(lengths))  # of a geometric distribution's mean
    assert abs(lengths.mean() - 3.0) < 3.3 * deviation


def test_silence_takes_exactly_the_lost_packets(talk):
    speech = np.abs(talk(10.0)) + 1
    loss = PacketLoss(0.1, burst=2.0, concealment=Concealment.SILENCE)
    heard = loss(speech, np.random.default_rng(9))
    lost = loss.lost(500, np.random.default_rng(9))
    np.testing.assert_array_equal((heard.reshape(-1, 160) == 0).all(axis=1), lost)
    np.testing.assert_array_equal(heard[np.repeat(~lost, 160)], speech[np.repeat(~lost, 160)])


def periodic(lag, n=3200):
    """Pulses through a resonance, one every ``lag`` samples."""
    wave = np.zeros(n)
    wave[::lag] = 10_000
    return np.convolve(wave, 0.9 ** np.arange(60) * np.cos(np.arange(60)))[:n].astype(np.int16)


@pytest.mark.parametrize("lag", [41, 64, 100, 119])
def test_whole_pitch_periods_are_found(lag):
    assert pitch_lag(periodic(lag).astype(float)[-390:]) % lag == 0


@pytest.mark.parametrize("lag", [45, 64, 100])
def test_a_steady_voice_survives_one_lost_packet(lag, snr_db):
    voice = periodic(lag)
    lost = np.arange(20) == 10
    heard = conceal(voice, lost)
    # Exact for 10 ms, then a fade that ends 20 % lower.
    np.testing.assert_allclose(heard[1600:1680], voice[1600:1680], atol=1)
    assert snr_db(voice[1600:1760], heard[1600:1760]) > 15
    np.testing.assert_array_equal(heard[:1500], voice[:1500])
    np.testing.assert_array_equal(heard[1760 + 80 :], voice[1760 + 80 :])


def test_a_long_loss_fades_to_silence_within_60_ms(level_db):
    voice = periodic(64, 4800)
    lost = (np.arange(30) >= 10) & (np.arange(30) < 20)
    heard = conceal(voice, lost)
    levels = [level_db(heard[1600 + 80 * k : 1680 + 80 * k]) for k in range(7)]
    assert all(later < earlier for earlier, later in pairwise(levels[:6]))
    assert not heard[1600 + 480 : 3200].any()


def test_real_loss_is_nearer_to_the_speech_than_silence_is(talk, snr_db):
    speech = talk(4.0)
    repeat, silence = (
        PacketLoss(0.1, burst=1.5, concealment=kind)(speech, np.random.default_rng(3))
        for kind in Concealment
    )
    assert snr_db(speech, repeat) > snr_db(speech, silence) + 2


def test_loss_before_there_is_any_history_is_silent():
    heard = conceal(periodic(64, 800), np.array([True, False, False, False, False]))
    assert not heard[:160].any()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [((0.5, 2.0, 0.4), "rate 0.5 < density 0.4"), ((0.6, 1.0), "burst 1.0"), ((0.1, 0.5), "0.5")],
)
def test_a_chain_that_does_not_exist_is_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        PacketLoss(*arguments)
