import json
import multiprocessing
import warnings

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pydantic import ValidationError

from train.telephone import EFFECTS, PRESETS, ChannelSettings, EdgeTone, TelephoneChannel
from train.telephone import chain as chain_module

FULL = ChannelSettings.full()


def other(random, n):
    """A talker that a worker process can be given: a module's function."""
    t = np.arange(n) / 8000
    hertz = random.uniform(100, 300)
    return (3000 * np.sin(2 * np.pi * hertz * t) * (np.sin(9 * t) > 0)).astype(np.int16)


def degrade(seed):
    channel = TelephoneChannel(FULL, babble=other)
    random = np.random.default_rng(seed)
    return channel(other(np.random.default_rng([seed, 1]), 8000), random)


def test_the_same_seed_gives_the_same_call_in_any_process_and_order():
    seeds = list(range(24))
    here = [degrade(seed) for seed in seeds]
    for seed, heard in zip(reversed(seeds), reversed(here), strict=True):
        np.testing.assert_array_equal(degrade(seed), heard)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        for heard, there in zip(here, pool.map(degrade, seeds, chunksize=3), strict=True):
            np.testing.assert_array_equal(heard, there)


def test_other_seeds_give_other_calls():
    channel = TelephoneChannel(FULL, babble=other)
    plans = {
        json.dumps(channel.draw(np.random.default_rng(seed), 8000).describe()) for seed in range(50)
    }
    assert len(plans) == 50


def test_drawing_leaves_the_input_alone(speech, talker):
    before = speech.copy()
    for seed in range(20):
        TelephoneChannel(FULL, babble=talker)(speech, np.random.default_rng(seed))
    np.testing.assert_array_equal(speech, before)


@pytest.mark.parametrize("effect", EFFECTS)
def test_each_effect_occurs_as_often_as_its_share_says(effect):
    names = {"loss": {"packet_loss"}, "band": {"trunk_band"}, "ring_back": {"ring_back"}}.get(
        effect, {effect}
    )
    channel = TelephoneChannel(FULL.model_copy(update={"tandem": 0.0}), babble=other)
    share = getattr(FULL, f"{effect}_share")
    calls = 1500
    found = 0
    for seed in range(calls):
        plan = channel.draw(np.random.default_rng([7, seed]), 80_000)
        found += any(step.name in names for step in plan.effects)
    assert abs(found / calls - share) <= 3.3 * np.sqrt(share * (1 - share) / calls)


@pytest.mark.parametrize("effect", EFFECTS)
def test_each_effect_alone_changes_the_speech_and_keeps_it_aligned(effect, speech, talker, lag):
    channel = TelephoneChannel(FULL.only(effect), babble=talker)
    random = np.random.default_rng(3)
    plan = channel.draw(random, len(speech))
    heard = plan(speech, random)
    assert plan.effects
    assert len(heard) >= len(speech)
    assert len(heard) == len(speech) or any(isinstance(e, EdgeTone) for e in plan.effects)
    assert len(heard) > len(speech) or (heard != speech).any()
    twin = heard[plan.lead : plan.lead + len(speech)]
    assert abs(lag(speech, twin)) <= 8


def test_the_whole_chain_keeps_the_speech_within_a_millisecond(speech, talker, lag):
    settings = FULL.model_copy(update={"handset_share": 0.0, "babble_snr_db": (15.0, 25.0)})
    channel = TelephoneChannel(settings, babble=talker)
    for seed in range(40):
        random = np.random.default_rng(seed)
        plan = channel.draw(random, len(speech))
        twin = plan(speech, random)[plan.lead : plan.lead + len(speech)]
        assert abs(lag(speech, twin)) <= 8, plan.describe()


def test_clean_is_clean_and_simple_is_band_level_and_g711(speech):
    for seed in range(20):
        heard = TelephoneChannel(PRESETS["clean"])(speech, np.random.default_rng(seed))
        np.testing.assert_array_equal(heard, speech)
        plan = TelephoneChannel(PRESETS["simple"]).draw(np.random.default_rng(seed), 8000)
        assert {e.name for e in plan.effects} in (
            {"level", "g711"},
            {"level", "trunk_band", "g711"},
        )


def test_without_other_talkers_there_is_no_babble():
    channel = TelephoneChannel(FULL)
    for seed in range(100):
        names = {e.name for e in channel.draw(np.random.default_rng(seed), 8000).effects}
        assert not names & {"babble", "far_end_echo"}


def test_plans_are_json_and_told_in_words(talker):
    channel = TelephoneChannel(FULL, babble=talker)
    for seed in range(50):
        plan = channel.draw(np.random.default_rng(seed), 32_000)
        assert json.loads(json.dumps(plan.describe())) == plan.describe()
        assert all(str(effect).startswith(effect.name) for effect in plan.effects)


def test_recorded_backgrounds_are_used_where_given(tmp_path):
    soundfile.write(tmp_path / "shop.wav", np.random.default_rng(0).normal(0, 0.1, 9000), 8000)
    settings = FULL.only("noise").model_copy(update={"noise": tmp_path, "recorded": 1.0})
    plan = TelephoneChannel(settings).draw(np.random.default_rng(0), 8000)
    assert plan.describe()[0]["effect"] == "recording"
    assert plan.describe()[0]["file"] == "shop.wav"
    with pytest.raises(ValueError, match="music: no audio file"):
        TelephoneChannel(FULL.model_copy(update={"music": tmp_path / "none"}))


def test_without_an_amr_coder_gsm_takes_its_share_and_says_so(monkeypatch):
    monkeypatch.setattr(chain_module, "amr_available", lambda: False)
    with pytest.warns(RuntimeWarning, match="no AMR-NB"):
        channel = TelephoneChannel(FULL.only("amr"))
    assert [e.name for e in channel.draw(np.random.default_rng(0), 8000).effects] == ["gsm"]


@pytest.mark.parametrize(
    ("update", "said"),
    [
        ({"room_share": 1.5}, "room_share"),
        ({"level_db": (-10, -20)}, "does not ascend"),
        ({"amr_share": 0.7, "gsm_share": 0.7}, "exceed 1"),
        ({"loss_rate": (0.1, 0.6)}, "loss_rate"),
        ({"loss_rate": (0.1, 0.45), "loss_burst": (1.0, 2.0)}, "no chain"),
        ({"babble_talkers": (0, 3)}, "babble_talkers"),
        ({"echo": 0.1}, "echo"),
    ],
)
def test_settings_that_make_no_sense_are_refused(update, said):
    with pytest.raises(ValidationError, match=said):
        ChannelSettings(**update)


def test_an_effect_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="'flanger'"):
        FULL.only("flanger")


EVERYTHING = [TelephoneChannel(FULL.only(effect), babble=other) for effect in EFFECTS]
LENGTHS = st.sampled_from([0, 1, 2, 79, 159, 160, 161, 320, 1000, 2003])
ANY_SAMPLES = LENGTHS.flatmap(
    lambda n: st.one_of(
        arrays.arrays(np.int16, n),
        st.sampled_from([0, 1, -32768, 32767]).map(lambda value: np.full(n, value, np.int16)),
        st.integers(0, 9).map(
            lambda seed: np.random.default_rng(seed).integers(-32768, 32768, n).astype(np.int16)
        ),
    )
)


@given(samples=ANY_SAMPLES, seed=st.integers(0, 2**32), channel=st.sampled_from(EVERYTHING))
def test_any_input_passes_any_effect(samples, seed, channel):
    check(channel, samples, seed)


@given(samples=ANY_SAMPLES, seed=st.integers(0, 2**32))
def test_any_input_passes_the_whole_chain(samples, seed):
    check(TelephoneChannel(FULL, babble=other), samples, seed)


def check(channel, samples, seed):
    with warnings.catch_warnings(), np.errstate(all="raise", under="ignore"):
        warnings.simplefilter("error")
        random = np.random.default_rng(seed)
        plan = channel.draw(random, len(samples))
        heard = plan(samples, random)
    assert heard.dtype == np.int16
    assert heard.ndim == 1
    assert len(heard) >= len(samples)
    assert len(heard) == len(samples) or any(isinstance(e, EdgeTone) for e in plan.effects)


@pytest.mark.parametrize("n", [0, 1, 159, 4001])
@pytest.mark.parametrize("value", [0, 32767, -32768])
def test_extremes_pass_every_effect(n, value):
    for channel in EVERYTHING:
        check(channel, np.full(n, value, np.int16), seed=n)
