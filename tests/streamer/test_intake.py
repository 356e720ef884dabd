"""Messages are gathered without a sample being changed, lost or kept."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.codec import Decoder, Encoding
from streamer.intake import Intake

FORMATS = [(Encoding.MULAW, 8000, 1), (Encoding.ALAW, 8000, 2), (Encoding.LINEAR16, 16000, 2)]


@pytest.mark.parametrize(("encoding", "rate", "channels"), FORMATS)
@given(
    messages=st.lists(st.tuples(st.integers(1, 500), st.booleans()), min_size=1, max_size=20),
    seed=st.integers(0, 2**32 - 1),
)
def test_gathered_is_what_the_decoder_makes_of_the_whole(encoding, rate, channels, messages, seed):
    frame = encoding.width * channels
    data = np.random.default_rng(seed).bytes(sum(samples for samples, _ in messages) * frame)
    intake = Intake(Decoder(encoding, rate, channels))
    got, waits, at = [], 0, 0
    for samples, visited in messages:
        waiting = intake.put(data[at * frame : (at + samples) * frame])
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
    intake = Intake(Decoder(Encoding.LINEAR16, 8000, 1))
    intake.put(b"abc")
    with pytest.raises(ValueError, match="3 bytes"):
        intake.take()
    assert intake.take() == []
