import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from streamer.audio.codec import SAMPLE_RATES, Decoder, Encoding, Halver, decode, encode, to_int16

G711 = [Encoding.MULAW, Encoding.ALAW]
ALL_CODES = bytes(range(256))
EVERY_SAMPLE = np.arange(-32768, 32768).astype(np.int16)


@pytest.fixture(scope="module")
def libsndfile_levels(tmp_path_factory):
    """The 256 levels of each law, as libsndfile reads them from a headerless file."""
    folder = tmp_path_factory.mktemp("g711")
    levels = {}
    for encoding, subtype in ((Encoding.MULAW, "ULAW"), (Encoding.ALAW, "ALAW")):
        path = folder / f"{subtype}.raw"
        path.write_bytes(ALL_CODES)
        levels[encoding], _ = soundfile.read(
            path, dtype="int16", format="RAW", subtype=subtype, samplerate=8000, channels=1
        )
    return levels


@pytest.mark.parametrize("encoding", G711)
def test_g711_decodes_as_libsndfile_does(encoding, libsndfile_levels):
    decoded = decode(ALL_CODES, encoding)
    assert decoded.dtype == np.dtype(np.int16)
    np.testing.assert_array_equal(decoded, libsndfile_levels[encoding])


@pytest.mark.parametrize("encoding", G711)
def test_every_code_survives_a_round_trip(encoding):
    again = encode(decode(ALL_CODES, encoding), encoding)
    # mu-law has two codes for zero; their level is what must survive.
    np.testing.assert_array_equal(decode(again, encoding), decode(ALL_CODES, encoding))
    changed = [code for code in range(256) if again[code] != code]
    assert changed in ([], [0x7F], [0xFF])
    assert encoding is Encoding.MULAW or not changed


@pytest.mark.parametrize("encoding", G711)
def test_encoding_is_off_by_at_most_half_a_step(encoding):
    levels = np.sort(np.unique(decode(ALL_CODES, encoding))).astype(int)
    values = EVERY_SAMPLE.astype(int)
    error = np.abs(decode(encode(EVERY_SAMPLE, encoding), encoding).astype(int) - values)
    right = np.clip(np.searchsorted(levels, values), 1, len(levels) - 1)
    step = levels[right] - levels[right - 1]
    inside = (values >= levels[0]) & (values <= levels[-1])
    assert (2 * error[inside] <= step[inside]).all()
    # Beyond the outermost level there is nothing nearer than that level.
    beyond = np.minimum(np.abs(values - levels[0]), np.abs(values - levels[-1]))
    np.testing.assert_array_equal(error[~inside], beyond[~inside])


def test_linear16_is_little_endian_and_lossless():
    assert decode(b"\x01\x00\xff\x7f\x00\x80\xfe\xff", Encoding.LINEAR16).tolist() == [
        1, 32767, -32768, -2,
    ]  # fmt: skip
    assert encode(np.array([1, -2], np.int16), Encoding.LINEAR16) == b"\x01\x00\xfe\xff"
    everything = encode(EVERY_SAMPLE, Encoding.LINEAR16)
    decoded = decode(everything, Encoding.LINEAR16)
    assert decoded.dtype == np.dtype(np.int16)
    np.testing.assert_array_equal(decoded, EVERY_SAMPLE)


def test_half_a_sample_is_refused():
    with pytest.raises(ValueError, match="3 bytes are not whole 2-byte samples"):
        decode(b"abc", Encoding.LINEAR16)


def test_channels_are_encoded_interleaved():
    two = np.array([[1, 2], [3, 4]], np.int16)
    assert encode(two, Encoding.LINEAR16) == b"\x01\x00\x02\x00\x03\x00\x04\x00"
    # also if the memory is laid out the other way round
    assert encode(np.asfortranarray(two), Encoding.MULAW) == encode(two, Encoding.MULAW)


def test_to_int16_rounds_and_saturates():
    values = np.array([0.4, 0.6, -0.6, 1e9, -1e9, 32767.4])
    assert to_int16(values).tolist() == [0, 1, -1, 32767, -32768, 32767]


def sine(hertz, amplitude=20000.0, seconds=1.0):
    return to_int16(amplitude * np.sin(2 * np.pi * hertz * np.arange(int(16000 * seconds)) / 16000))


def level_db(hertz):
    """Level of what comes out for a tone, relative to the tone, after the filter has settled."""
    out = Halver().push(sine(hertz))[100:-100].astype(np.float64)
    return 20 * np.log10(np.sqrt(np.mean(out**2)) / (20000 / np.sqrt(2)) + 1e-12)


@pytest.mark.parametrize("hertz", [100, 300, 1000, 2000, 2500, 3000, 3200, 3300, 3400])
def test_halver_is_flat_in_the_telephone_band(hertz):
    assert abs(level_db(hertz)) < 0.1


@pytest.mark.parametrize("hertz", [4600, 4700, 4900, 5200, 5600, 6000, 6500, 7000, 7500, 7900])
def test_halver_suppresses_what_would_alias(hertz):
    assert level_db(hertz) <= -60.0


def test_halver_keeps_time():
    """Its delay is constant: a tone comes out as the same tone, 27 input samples later."""
    out = Halver().push(sine(500)).astype(np.float64)
    expected = 20000 * np.sin(2 * np.pi * 500 * (2 * np.arange(len(out)) - 27) / 16000)
    np.testing.assert_allclose(out[50:], expected[50:], rtol=0, atol=25)
    assert len(out) == 8000


def test_halver_saturates_instead_of_wrapping():
    square = np.where(np.arange(1600) // 80 % 2, 32767, -32768).astype(np.int16)
    out = Halver().push(square)
    assert out.max() == 32767  # overshoot at the edges
    assert out.min() == -32768
    steady = out[(np.arange(len(out)) - 14) % 40 == 20][2:]
    assert (np.abs(steady.astype(int)) > 32000).all()


@given(sizes=st.lists(st.integers(1, 300), min_size=1), seed=st.integers(0, 99))
def test_halver_gives_the_same_samples_for_any_chunking(sizes, seed):
    samples = np.random.default_rng(seed).integers(-32768, 32768, 2001).astype(np.int16)
    whole = Halver().push(samples)
    halver, parts, start = Halver(), [], 0
    for size in sizes:
        parts.append(halver.push(samples[start : start + size]))
        start += size
    parts.append(halver.push(samples[start:]))
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert len(whole) == 1001  # one for every second sample, from the first


def test_halver_keeps_its_history_and_no_more():
    halver = Halver()
    for samples in (1000, 3, 1000):
        halver.push(np.zeros(samples, np.int16))
        assert len(halver.history) in Halver.LENGTHS
        assert halver.history.base is None


@pytest.mark.parametrize("encoding", list(Encoding))
@pytest.mark.parametrize("rate", SAMPLE_RATES)
@pytest.mark.parametrize("channels", [1, 2])
def test_decoder_splits_channels_and_rates(encoding, rate, channels):
    rng = np.random.default_rng(5)
    signals = rng.integers(-20000, 20000, (800, channels)).astype(np.int16)
    data = encode(signals, encoding)
    parts = Decoder(encoding, rate, channels).push(data)
    assert len(parts) == channels
    for channel, part in enumerate(parts):
        expected = decode(encode(signals[:, channel], encoding), encoding)
        if rate == 16000:
            expected = Halver().push(expected)
        np.testing.assert_array_equal(part, expected)


@pytest.mark.parametrize(
    ("encoding", "channels", "size", "frame"),
    [(Encoding.LINEAR16, 1, 3, 2), (Encoding.LINEAR16, 2, 6, 4), (Encoding.MULAW, 2, 5, 2)],
)
def test_decoder_refuses_part_of_a_sample(encoding, channels, size, frame):
    decoder = Decoder(encoding, 8000, channels)
    assert decoder.frame_bytes == frame
    with pytest.raises(ValueError, match=f"{size} bytes are not whole samples of {channels}"):
        decoder.push(bytes(size))


@pytest.mark.parametrize(
    ("rate", "channels", "message"),
    [(44100, 1, "sample rate 44100, not one of"), (0, 1, "sample rate 0"), (8000, 0, "0 channels")],
)
def test_decoder_refuses_other_formats(rate, channels, message):
    with pytest.raises(ValueError, match=message):
        Decoder(Encoding.MULAW, rate, channels)
