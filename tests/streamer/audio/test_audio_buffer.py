"""Messages are gathered without a sample being changed, lost or kept."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.audio.codec import Decoder, Encoding
from streamer.audio.ingest import AudioBuffer
from streamer.errors import InvalidArgument, LimitExceeded

FORMATS = [(Encoding.MULAW, 8000, 1), (Encoding.ALAW, 8000, 2), (Encoding.LINEAR16, 16000, 2)]


@pytest.mark.parametrize(("encoding", "rate", "channels"), FORMATS)
@given(
    messages=st.lists(st.tuples(st.integers(1, 500), st.booleans()), min_size=1, max_size=20),
    seed=st.integers(0, 2**32 - 1),
)
def test_gathered_is_what_the_decoder_makes_of_the_whole(encoding, rate, channels, messages, seed):
    frame = encoding.width * channels
    data = np.random.default_rng(seed).bytes(sum(samples for samples, _ in messages) * frame)
    intake = AudioBuffer(Decoder(encoding, rate, channels), 10.0)
    got, waits, at = [], 0, 0
    for samples, visited in messages:
        message = data[at * frame : (at + samples) * frame]
        assert intake.samples(message) == samples
        waiting = intake.put(message)
        at, waits = at + samples, waits + samples
        assert waiting == waits * frame
        if visited:
            got.append(intake.take())
            waits = 0
    got.append(intake.take())
    assert intake.take() == []
    whole = Decoder(encoding, rate, channels).push(data)
    for channel in range(channels):
        parts = [part[channel] for part in got if part]
        np.testing.assert_array_equal(np.concatenate(parts), whole[channel])


def test_part_of_a_sample_is_said_and_not_kept():
    intake = AudioBuffer(Decoder(Encoding.LINEAR16, 8000, 1), 10.0)
    intake.put(b"abc")
    with pytest.raises(ValueError, match="3 bytes"):
        intake.take()
    assert intake.take() == []


@pytest.mark.parametrize(("encoding", "rate", "channels"), FORMATS)
def test_a_message_is_a_whole_number_of_samples_and_not_too_long(encoding, rate, channels):
    frame = encoding.width * channels
    intake = AudioBuffer(Decoder(encoding, rate, channels), 0.1)
    assert intake.samples(bytes(rate // 10 * frame)) == rate // 10
    assert intake.bytes_of(100) == rate // 80 * frame
    with pytest.raises(LimitExceeded, match=r"audio\.data: 0\.2 s .* 0\.1 s a message"):
        intake.samples(bytes(rate // 5 * frame))
    with pytest.raises(InvalidArgument, match="0 bytes"):
        intake.samples(b"")
    if frame > 1:
        with pytest.raises(InvalidArgument, match=f"{frame + 1} bytes .* takes {frame} bytes"):
            intake.samples(bytes(frame + 1))
