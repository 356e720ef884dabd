"""Sound files that are damaged, forged or no calls: one precise error, no memory for a promise."""

import io
import resource
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from streamer.audio.codec import SAMPLE_RATE
from streamer.client import audio_file as telephone_file
from streamer.client.audio_file import read_as_call

HEADER_BYTES = 8
"""Of FLAC's mark and the head of its first block, before STREAMINFO."""


@pytest.fixture
def read(tmp_path):
    """Read bytes as a file."""

    def read(data):
        path = tmp_path / "file"
        path.write_bytes(data)
        return read_as_call(path)

    return read


def wav(samples, rate=SAMPLE_RATE, channels=1, promised=None):
    """A WAV file of 32-bit floats, whose header may promise more bytes than there are."""
    data = np.asarray(samples, "<f4").tobytes()
    size = len(data) if promised is None else promised
    form = struct.pack(
        "<IHHIIHH", 16, 3, channels, rate, 4 * rate * channels % 2**32, 4 * channels, 32
    )
    return (
        b"RIFF"
        + struct.pack("<I", 36 + size)
        + b"WAVEfmt "
        + form
        + b"data"
        + struct.pack("<I", size)
        + data
    )


def flac(samples, promised=None):
    """A FLAC file of two channels, whose header may promise more samples than there are."""
    file = io.BytesIO()
    soundfile.write(file, np.stack([samples, samples], axis=1), SAMPLE_RATE, format="FLAC")
    data = bytearray(file.getvalue())
    if promised is not None:  # 36 bits, after block and frame sizes, rate, channels and depth
        at = HEADER_BYTES + 13
        data[at : at + 5] = (data[at] & 0xF0 | promised >> 32, *struct.pack(">I", promised % 2**32))
    return bytes(data)


@pytest.fixture
def little_memory():
    """Half a gigabyte more than the process has now, and no more."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + 2**29
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.usefixtures("little_memory")
def test_a_false_header_takes_no_memory(read):
    samples = np.linspace(-0.5, 0.5, 4000)
    assert read(wav(samples, promised=0x7FFF_FF00)) == read(wav(samples))
    for promised in (2**36 - 1, 2**31 - 1):
        with pytest.raises(ValueError, match="not a readable sound file"):
            read(flac(samples, promised))


@pytest.mark.parametrize("rate", [1, 999, 768_001, 2**31 - 1])
def test_sample_rate_out_of_range_is_refused(read, rate):
    with pytest.raises(ValueError, match=f": {rate} Hz; a call has 1000 to 768000 Hz"):
        read(wav(np.zeros(1000), rate=rate))


@pytest.mark.parametrize("rate", [SAMPLE_RATE, 16000])
@pytest.mark.parametrize("sample", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_refused(read, sample, rate):
    with pytest.raises(ValueError, match="not finite"):
        read(wav([0.0, sample, 0.0], rate=rate))


def test_samples_beyond_full_scale_saturate(read):
    assert read(wav([3e38, -3e38])) == read(wav([1.0, -1.0]))


def test_hours_of_compressed_silence_are_refused(read, monkeypatch):
    monkeypatch.setattr(telephone_file, "MAX_SECONDS", 2.0)
    assert read(flac(np.zeros(2 * SAMPLE_RATE))).seconds == 2.0
    with pytest.raises(ValueError, match="no call is that long"):
        read(flac(np.zeros(2 * SAMPLE_RATE + 1)))


@pytest.mark.parametrize("rate", [SAMPLE_RATE, 11025, 44100])
@pytest.mark.parametrize("block", [1, 7, 1000])
def test_block_size_does_not_change_the_audio(read, rate, block, monkeypatch):
    samples = np.random.default_rng(1).uniform(-0.9, 0.9, 2001)
    whole = read(wav(samples, rate=rate))
    monkeypatch.setattr(telephone_file, "BLOCK_SAMPLES", block)
    assert read(wav(samples, rate=rate)) == whole
