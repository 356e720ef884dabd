import numpy as np
import pytest
import soundfile
from scipy.signal import welch

from train.telephone import Babble, Background, ComfortNoise, Music, Noise, Recording, mix_at_snr
from train.telephone.noise import recordings_in, stretch_of
from train.telephone.synthesis import coloured


def reached_db(speech, heard):
    """Active speech over what was added, where we know when speech is: odd seconds are silent."""
    spoken = np.arange(len(speech)) / 8000 % 2 < 1
    added = heard.astype(float) - speech
    return 10 * np.log10(np.mean(speech[spoken].astype(float) ** 2) / np.mean(added**2))


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    file = tmp_path_factory.mktemp("noise") / "fan.flac"
    noise = 0.1 * np.random.default_rng(2).standard_normal((16000 * 3, 2))
    soundfile.write(file, noise, 16000)
    return file


@pytest.mark.parametrize("snr", [0.0, 10.0, 25.0])
@pytest.mark.parametrize("kind", list(Background))
def test_the_requested_snr_is_reached(kind, snr, speech):
    heard = Noise(kind, snr)(speech, np.random.default_rng(1))
    assert reached_db(speech, heard) == pytest.approx(snr, abs=0.5)


@pytest.mark.parametrize("snr", [5.0, 20.0])
def test_so_it_is_by_babble_music_and_recordings(snr, speech, talker, recording):
    for effect in (Babble(talker, 1, snr), Babble(talker, 5, snr), Music(snr)):
        heard = effect(speech, np.random.default_rng(2))
        assert reached_db(speech, heard) == pytest.approx(snr, abs=0.5), effect
    heard = Recording(recording, snr)(speech, np.random.default_rng(2))
    assert reached_db(speech, heard) == pytest.approx(snr, abs=0.5)


def test_loud_sums_are_lowered_together_rather_than_clipped(speech):
    loud = (speech * (32000 / np.abs(speech.astype(int)).max())).astype(np.int16)
    noise = np.random.default_rng(0).standard_normal(len(loud))
    heard = mix_at_snr(loud, noise, 0.0).astype(float)
    assert np.abs(heard).max() == 32767
    gain, error = np.linalg.lstsq(np.stack([loud, noise], axis=1), heard, rcond=None)[:2]
    spoken = np.arange(len(loud)) / 8000 % 2 < 1
    signal = gain[0] ** 2 * np.mean(loud[spoken].astype(float) ** 2)
    ratio = 10 * np.log10(signal / (gain[1] ** 2 * np.mean(noise**2)))
    assert ratio == pytest.approx(0, abs=0.5)
    assert np.sqrt(error[0] / len(heard)) < 1  # nothing but rounding is left


def test_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="speech of 3 samples, what is added has 2"):
        mix_at_snr(np.ones(3, np.int16), np.ones(2), 0)


@pytest.mark.parametrize("slope", [0.0, 1.0, 2.0])
def test_coloured_noise_falls_by_its_slope(slope):
    hertz, power = welch(coloured(np.random.default_rng(3), 400_000, slope), 8000, nperseg=1024)
    band = (hertz > 150) & (hertz < 3800)
    fitted = np.polyfit(np.log(hertz[band]), np.log(power[band]), 1)[0]
    assert fitted == pytest.approx(-slope, abs=0.1)


def share_between(samples, low, high):
    hertz, power = welch(samples.astype(float), 8000, nperseg=2048)
    return power[(hertz >= low) & (hertz < high)].sum() / power.sum()


def test_backgrounds_sound_like_their_names(speech):
    silent_start = np.concatenate([np.zeros(16000, np.int16), speech])
    noise = {
        kind: Noise(kind, 0.0)(silent_start, np.random.default_rng(5))[:16000]
        for kind in Background
    }
    assert share_between(noise[Background.CAR], 0, 300) > 0.8
    assert share_between(noise[Background.LINE], 1000, 4000) > 0.4
    hertz, power = welch(noise[Background.HUM].astype(float), 8000, nperseg=8000)
    peak = hertz[power.argmax()]
    assert min(peak % 50, peak % 60, -peak % 50, -peak % 60) <= 1


def test_music_has_lines_where_noise_has_none(speech):
    added = Music(0.0)(speech, np.random.default_rng(1)).astype(float) - speech
    power = welch(added, 8000, nperseg=4096)[1]
    flatness = np.exp(np.log(power + 1e-9).mean()) / power.mean()
    assert flatness < 0.1


def test_comfort_noise_fills_pauses_and_leaves_speech(speech, level_db):
    room = (speech + np.random.default_rng(0).normal(0, 40, len(speech))).astype(np.int16)
    heard = ComfortNoise(-60.0)(room, np.random.default_rng(1))
    np.testing.assert_array_equal(heard[800:7200], room[800:7200])
    assert level_db(heard[9600:15000]) == pytest.approx(-60, abs=0.5)


def test_more_talkers_make_a_denser_murmur(speech, talker):
    def added(talkers):
        heard = Babble(talker, talkers, 0.0)(speech, np.random.default_rng(8))
        return heard.astype(float) - speech

    def unevenness(wave):
        frames = np.square(wave[: len(wave) // 160 * 160].reshape(-1, 160)).mean(axis=1)
        return frames.std() / frames.mean()

    assert unevenness(added(8)) < unevenness(added(1))
    with pytest.raises(ValueError, match="talkers 0"):
        Babble(talker, 0, 10.0)


def test_recordings_are_resampled_repeated_and_sorted(recording):
    assert recordings_in(recording.parent, "noise") == (recording,)
    short = stretch_of(recording, np.random.default_rng(0), 8000)
    assert short.dtype == np.int16
    assert len(stretch_of(recording, np.random.default_rng(0), 80_000)) == 80_000
    # Averaging two independent channels costs 3 dB, half of the band another 3.
    assert 20 * np.log10(short.std() / 32767) == pytest.approx(-26, abs=0.7)


def test_a_folder_without_audio_is_refused(tmp_path):
    with pytest.raises(ValueError, match="music: no audio file below"):
        recordings_in(tmp_path, "music")
