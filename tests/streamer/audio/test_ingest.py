"""Messages are buffered without a sample being changed, lost or repeated."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.audio.codec import Decoder, Encoding
from streamer.audio.ingest import AudioIngest
from streamer.errors import InvalidArgument, LimitExceeded

FORMATS = [(Encoding.MULAW, 8000, 1), (Encoding.ALAW, 8000, 2), (Encoding.LINEAR16, 16000, 2)]


@pytest.mark.parametrize(("encoding", "rate", "channels"), FORMATS)
@given(
    messages=st.lists(st.tuples(st.integers(1, 500), st.booleans()), min_size=1, max_size=20),
    seed=st.integers(0, 2**32 - 1),
)
def test_decoded_parts_equal_the_whole(encoding, rate, channels, messages, seed):
    frame = encoding.width * channels
    data = np.random.default_rng(seed).bytes(sum(samples for samples, _ in messages) * frame)
    ingest = AudioIngest(encoding, rate, channels, 10.0)
    ingest.decode_at_bytes = len(data) + 1
    parts, buffered, at = [], 0, 0
    for sequence, (samples, decoded) in enumerate(messages):
        message = data[at * frame : (at + samples) * frame]
        assert ingest.accept(sequence, message) == (samples, 0, [])
        at, buffered = at + samples, buffered + samples
        assert ingest.buffered_bytes == buffered * frame
        if decoded:
            parts.append(ingest.decode())
            buffered = 0
    parts.append(ingest.decode())
    assert ingest.decode() == []
    assert ingest.position == at
    whole = Decoder(encoding, rate, channels).push(data)
    for channel in range(channels):
        joined = np.concatenate([part[channel] for part in parts if part])
        np.testing.assert_array_equal(joined, whole[channel])


@pytest.mark.parametrize(("encoding", "rate", "channels"), FORMATS)
def test_message_length_is_checked(encoding, rate, channels):
    frame = encoding.width * channels
    ingest = AudioIngest(encoding, rate, channels, 0.1)
    ingest.decode_at_bytes = 1 << 20
    assert ingest.accept(1, bytes(rate // 10 * frame)) == (rate // 10, 0, [])
    assert ingest.bytes_of(100) == rate // 80 * frame
    with pytest.raises(LimitExceeded, match=r"audio\.data: 0\.2 s .* 0\.1 s a message"):
        ingest.accept(2, bytes(rate // 5 * frame))
    with pytest.raises(InvalidArgument, match="0 bytes"):
        ingest.accept(2, b"")
    if frame > 1:
        with pytest.raises(InvalidArgument, match=f"{frame + 1} bytes .* takes {frame} bytes"):
            ingest.accept(2, bytes(frame + 1))
    assert (ingest.sequence, ingest.position) == (1, rate // 10)


def test_replayed_messages_are_dropped_until_a_new_one():
    ingest = AudioIngest(Encoding.MULAW, 8000, 1, 10.0)
    ingest.decode_at_bytes = 1000
    ingest.restore(7, 800, 0, 0, ())
    assert ingest.accept(3, bytes(100)) is None
    assert ingest.accept(7, bytes(100)) is None
    assert ingest.duplicates == 0
    assert ingest.accept(8, bytes(100)) == (100, 0, [])
    assert ingest.accept(8, bytes(100)) is None
    assert ingest.duplicates == 1
    with pytest.raises(InvalidArgument, match="must rise; the last was 8"):
        ingest.accept(7, bytes(100))


def test_decodes_at_a_number_of_bytes_or_a_position():
    ingest = AudioIngest(Encoding.MULAW, 8000, 1, 10.0)
    ingest.decode_at_bytes, ingest.decode_at_position = 200, 350
    decoded = [ingest.accept(sequence, bytes(100)) for sequence in range(4)]
    assert [(samples, lost) for samples, lost, _ in decoded] == [(100, 0)] * 4
    assert [[len(part) for part in parts] for _, _, parts in decoded] == [[], [200], [], [200]]
    assert ingest.buffered_bytes == 0
