import numpy as np
import pytest

from train.telephone import ROOMS, FarEndEcho, Room, TalkerEcho, reverberation_time, room_response

RANDOM = np.random.default_rng(0)
IMPULSE = np.eye(1, 8000, 100, dtype=np.int16)[0] * 32767


@pytest.mark.parametrize("drr", [-3.0, 5.0, 15.0])
@pytest.mark.parametrize("index", [0, 7, ROOMS - 1])
def test_the_requested_direct_to_reverberant_ratio_is_reached(index, drr):
    # A train of impulses far apart: one alone would drown in rounding.
    response = Room(index, drr)(IMPULSE, RANDOM).astype(float)
    direct, rest = response[100] ** 2, np.sum(np.delete(response, 100) ** 2)
    assert 10 * np.log10(direct / rest) == pytest.approx(drr, abs=0.5)


def test_the_direct_sound_stays_where_it_is_and_nothing_comes_before(talk, lag):
    response = Room(3, 0.0)(IMPULSE, RANDOM)
    assert response.argmax() == 100
    assert not response[:100].any()
    speech = talk(2.0)
    assert lag(speech, Room(3, 3.0)(speech, RANDOM)) == 0


@pytest.mark.parametrize("index", [1, 20, 40])
def test_the_tail_decays_with_the_rooms_reverberation_time(index):
    response = room_response(index).astype(float)
    decay = 10 * np.log10(np.cumsum(np.square(response)[::-1])[::-1] + 1e-30)  # Schroeder
    seconds = np.arange(len(response)) / 8000
    part = (decay < decay[0] - 5) & (decay > decay[0] - 25)
    slope = np.polyfit(seconds[part], decay[part], 1)[0]
    assert -60 / slope == pytest.approx(reverberation_time(index), rel=0.3)


def test_rooms_differ_and_the_bank_has_an_end():
    times = [reverberation_time(index) for index in range(ROOMS)]
    assert min(times) < 0.3
    assert max(times) > 0.5
    assert len(set(times)) > ROOMS // 2
    with pytest.raises(ValueError, match=f"room {ROOMS}"):
        room_response(ROOMS)


@pytest.mark.parametrize(("delay", "loss"), [(15.0, 10.0), (120.0, 20.0), (300.0, 15.0)])
def test_ones_own_echo_comes_when_and_as_loud_as_asked(delay, loss, lag):
    noise = np.random.default_rng(1).normal(0, 4000, 40_000).astype(np.int16)
    echo = TalkerEcho(delay, loss)(noise, np.random.default_rng(2)).astype(float) - noise
    late = round(delay * 8)
    assert not echo[:late].any()
    measured = 10 * np.log10(np.mean(noise[:-late].astype(float) ** 2) / np.mean(echo[late:] ** 2))
    assert measured == pytest.approx(loss, abs=0.5)
    assert lag(noise, echo) == pytest.approx(late, abs=8)


def test_the_other_partys_echo_is_down_by_the_return_loss(speech, talk):
    def other(_random, n):
        return np.resize(talk(4.0, 11), n)

    echo = FarEndEcho(other, 20.0)(speech, np.random.default_rng(2)).astype(float) - speech
    spoken = np.arange(len(speech)) / 8000 % 2 < 1
    measured = 10 * np.log10(np.mean(speech[spoken].astype(float) ** 2) / np.mean(echo**2))
    assert measured == pytest.approx(20, abs=0.5)
    # It is the other party's voice, not this one's.
    correlation = np.corrcoef(echo, other(None, len(speech)))[0, 1]
    assert abs(correlation) > 0.3
    assert abs(np.corrcoef(echo, speech)[0, 1]) < 0.2
