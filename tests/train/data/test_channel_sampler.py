import pickle
from dataclasses import replace

import numpy as np
import pytest

from train.corpora.utterance import Utterance
from train.data.babble import BabblePool
from train.data.channel_sampler import ChannelSampler
from train.data.dataset import open_split
from train.telephone import PRESETS, TelephoneChannel

UTTERANCE = Utterance("u", "c", "s", "female", "u.wav")


def rng():
    return np.random.default_rng(7)


@pytest.fixture
def speech():
    return (3000 * np.random.default_rng(1).standard_normal(8000)).astype(np.int16)


def test_wideband_goes_through_the_preset(speech):
    for preset in ("clean", "simple", "full"):
        expected = TelephoneChannel(PRESETS[preset])(speech, rng())
        assert preset == "full" or np.array_equal(
            ChannelSampler(preset)(speech, rng(), UTTERANCE), expected
        )


def test_a_recorded_call_gets_hardly_any_telephone_again(speech):
    heard = ChannelSampler("full")(speech, rng(), replace(UTTERANCE, line="telephone"))
    assert len(heard) == len(speech)
    gain = heard.astype(float) @ speech / (speech.astype(float) @ speech)
    rest = heard - gain * speech
    snr = 10 * np.log10((gain * speech.astype(float)) @ (gain * speech) / (rest @ rest))
    assert snr > 25  # G.711 and nothing else


def test_an_unknown_line_is_named(speech):
    with pytest.raises(ValueError, match="line 'satellite'"):
        ChannelSampler("simple")(speech, rng(), replace(UTTERANCE, line="satellite"))


def test_talkers_are_heard_behind_others_only():
    ones, twos = np.full(10, 1, np.int16), np.full(10, 2, np.int16)
    talkers = BabblePool((ones, twos), ("c/a", "c/b"))
    for seed in range(20):
        drawn = talkers.besides("c/a", np.random.default_rng(seed), 25)
        assert drawn.tolist() == [2] * 25
    assert not BabblePool((ones,), ("c/a",)).besides("c/a", rng(), 5).any()


def test_the_pool_has_each_speaker_once(prepared):
    split = open_split(prepared, "train")
    talkers = BabblePool.of(split)
    assert len(set(talkers.speakers)) == len(talkers.speakers)
    assert set(talkers.speakers) <= {cut.supervisions[0].speaker for cut in split.cuts()}
    assert all(len(speech) >= 4000 for speech in talkers.speech)
    assert len(BabblePool.of(split, count=3).speech) == 3


def test_lines_travel_to_worker_processes(speech, prepared):
    lines = ChannelSampler("full", BabblePool.of(open_split(prepared, "train")))
    again = pickle.loads(pickle.dumps(lines))  # noqa: S301 - our own bytes
    for seed in range(30):
        here = lines(speech, np.random.default_rng(seed), UTTERANCE)
        np.testing.assert_array_equal(again(speech, np.random.default_rng(seed), UTTERANCE), here)
