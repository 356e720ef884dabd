"""Our coders against ffmpeg's own, which share no code with what we use."""

import av
import numpy as np
import pytest
from scipy.signal import coherence, welch

from streamer.audio.codec import Encoding, encode
from train.telephone import AMR_RATES, G711, Amr, Gsm, amr_available
from train.telephone.codecs import AMR_DELAY, amr_decode, amr_encode, gsm_decode, gsm_encode

RANDOM = np.random.default_rng(0)
needs_amr = pytest.mark.skipif(not amr_available(), reason="PyAV's ffmpeg has no AMR-NB coder")


def ffmpeg_decode(name, data, packet=None):
    decoder = av.CodecContext.create(name, "r")
    decoder.sample_rate, decoder.layout = 8000, "mono"
    packet = packet or len(data)
    frames = []
    for start in range(0, len(data), packet):
        frames += decoder.decode(av.Packet(data[start : start + packet]))
    return np.concatenate([frame.to_ndarray().reshape(-1) for frame in frames])


def coherent_snr(original, copy):
    """What of the copy is a linear function of the original, over what is not, decibels.

    AMR's high-pass and post-filter turn phases, which is not noise and would count as such.
    """
    original, copy = original.astype(float), copy.astype(float)
    shared = coherence(original, copy, 8000, nperseg=256)[1]
    power = welch(copy, 8000, nperseg=256)[1]
    return 10 * np.log10(np.sum(shared * power) / np.sum((1 - shared) * power))


@pytest.mark.parametrize(
    ("law", "name"), [(Encoding.MULAW, "pcm_mulaw"), (Encoding.ALAW, "pcm_alaw")]
)
def test_g711_decodes_as_ffmpeg_does_and_reaches_its_snr(law, name, speech, snr_db):
    ours = G711(law)(speech, RANDOM)
    np.testing.assert_array_equal(ours, ffmpeg_decode(name, encode(speech, law)))
    assert snr_db(speech, ours) > 35  # ITU-T G.712: 33 dB and more between -30 and 0 dBm0


@pytest.mark.parametrize(
    ("law", "name"), [(Encoding.MULAW, "pcm_mulaw"), (Encoding.ALAW, "pcm_alaw")]
)
def test_g711_encodes_as_well_as_ffmpeg_does(law, name, speech, snr_db):
    coder = av.CodecContext.create(name, "w")
    coder.sample_rate, coder.layout, coder.format = 8000, "mono", av.AudioFormat("s16")
    frame = av.AudioFrame.from_ndarray(speech[None], format="s16", layout="mono")
    frame.sample_rate = 8000
    theirs = b"".join(bytes(p) for p in coder.encode(frame) + coder.encode(None))
    reference = snr_db(speech, ffmpeg_decode(name, theirs))
    assert snr_db(speech, G711(law)(speech, RANDOM)) > reference - 0.1


def test_gsm_decodes_as_ffmpeg_does(speech):
    data = gsm_encode(speech)
    assert len(data) == 33 * len(speech) // 160
    np.testing.assert_array_equal(gsm_decode(data), ffmpeg_decode("gsm", data, packet=33))


def test_gsm_reaches_its_snr_and_stays_aligned(talk, lag, snr_db):
    speech = talk(3.01)
    copy = Gsm()(speech, RANDOM)
    assert len(copy) == len(speech)
    assert snr_db(speech, copy) > 10
    assert abs(lag(speech, copy)) <= 8


@needs_amr
@pytest.mark.parametrize("rate", AMR_RATES)
def test_amr_decodes_as_ffmpegs_own_decoder_does(rate, talk, snr_db):
    data = amr_encode(talk(1.5), rate)
    ours, theirs = amr_decode(data), amr_decode(data, "amrnb")
    assert len(ours) == len(theirs)
    # Fixed point against floating point: not the same bits, but the same speech.
    assert snr_db(ours, theirs) > 15


@needs_amr
@pytest.mark.parametrize("dtx", [False, True])
def test_amr_gets_better_with_its_rate_and_stays_aligned(dtx, talk, lag):
    speech = talk(2.03)
    copies = {rate: Amr(rate, dtx)(speech, RANDOM) for rate in AMR_RATES}
    for copy in copies.values():
        assert len(copy) == len(speech)
        assert abs(lag(speech, copy)) <= 8
    snrs = [coherent_snr(speech, copies[rate]) for rate in AMR_RATES]
    assert snrs == sorted(snrs)
    assert snrs[0] > 12
    assert snrs[-1] > 17


@needs_amr
def test_amr_is_late_by_what_we_take_away(talk, lag):
    speech = talk(2.0)
    assert lag(speech, amr_decode(amr_encode(speech, 12200))) == pytest.approx(AMR_DELAY, abs=4)


@needs_amr
def test_dtx_sends_fewer_bits_in_pauses(speech):
    assert len(amr_encode(speech, 12200, dtx=True)) < 0.8 * len(amr_encode(speech, 12200))


@pytest.mark.parametrize("coder", [Gsm(), Amr(7950), Amr(4750, dtx=True)])
def test_nothing_passes_from_one_call_to_the_next(coder, talk):
    if isinstance(coder, Amr) and not amr_available():
        pytest.skip("PyAV's ffmpeg has no AMR-NB coder")
    first = coder(talk(1.0, 1), RANDOM)
    coder(talk(1.0, 2), RANDOM)
    np.testing.assert_array_equal(first, coder(talk(1.0, 1), RANDOM))


def test_a_rate_that_is_no_mode_is_refused():
    with pytest.raises(ValueError, match="AMR-NB rate 9600"):
        Amr(9600)


def test_a_law_that_is_none_is_refused():
    with pytest.raises(ValueError, match="LINEAR16"):
        G711(Encoding.LINEAR16)
