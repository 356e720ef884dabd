"""Sequence numbers, loss, and audio that is not acceptable."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.audio.codec import Encoding
from streamer.errors import InvalidArgument, LimitExceeded
from tests.streamer.session.formats import FORMATS, configured

RATE = 8000


def test_sequence_may_start_anywhere(call, bench, speech):
    call.session.audio(2**64 - 2, speech)
    call.session.audio(2**64 - 1, speech)
    final = bench.finish(call).finals[0]
    assert (final.sequence, final.audio_seconds, final.lost_seconds) == (2**64 - 1, 4.0, 0.0)


def test_sequence_zero_is_a_number_like_any_other(call, bench, speech):
    call.session.audio(0, speech)
    call.session.audio(0, speech)
    call.session.audio(1, speech)
    final = bench.finish(call).finals[0]
    assert (final.sequence, final.audio_seconds, final.lost_seconds) == (1, 4.0, 0.0)
    assert call.session.duplicates == 1


@given(again=st.lists(st.integers(0, 9), max_size=12))
def test_duplicates_change_nothing(bench, audio, speech, again):
    chunks = audio.cut(speech, [RATE // 5])
    expected = bench.play(chunks).finals[0]
    recorder = bench.session()
    for sequence, chunk in enumerate(chunks, start=1):
        for _ in range(1 + again.count(sequence - 1)):
            recorder.session.audio(sequence, chunk)
    assert bench.finish(recorder).finals[0] == expected
    assert recorder.session.duplicates == len(again)


def test_sequence_going_back_is_refused(call, speech):
    call.session.audio(7, speech)
    with pytest.raises(InvalidArgument) as caught:
        call.session.audio(6, speech)
    assert str(caught.value) == "audio.sequence: 6 is not valid; it must rise; the last was 7"


def test_gap_counts_as_long_as_the_message_after_it(call, bench, speech):
    call.session.audio(1, speech)
    call.session.audio(4, speech[:800])
    final = bench.finish(call).finals[0]
    assert final.lost_seconds == pytest.approx(0.2)
    assert final.audio_seconds == pytest.approx(2.3)
    assert final.sequence == 4


@pytest.mark.parametrize("sequence", [2, 4])
def test_start_sample_gives_the_loss_its_true_length(call, bench, speech, sequence):
    """Also where no number is missing: suppressed silence."""
    call.session.audio(1, speech, start_sample=0)
    call.session.audio(sequence, speech, start_sample=2 * RATE + 12000)
    final = bench.finish(call).finals[0]
    assert final.lost_seconds == 1.5
    assert final.audio_seconds == 5.5


def test_start_sample_without_loss(call, bench, speech):
    call.session.audio(1, speech, start_sample=0)
    call.session.audio(9, speech, start_sample=2 * RATE)
    final = bench.finish(call).finals[0]
    assert (final.lost_seconds, final.audio_seconds) == (0.0, 4.0)


def test_call_that_begins_late(call, bench, speech):
    call.session.audio(5, speech, start_sample=3 * RATE)
    final = bench.finish(call).finals[0]
    assert (final.lost_seconds, final.audio_seconds) == (3.0, 5.0)


def test_start_sample_going_back_is_refused(call, speech):
    call.session.audio(1, speech, start_sample=100)
    with pytest.raises(InvalidArgument) as caught:
        call.session.audio(2, speech, start_sample=2 * RATE + 99)
    assert str(caught.value) == (
        "audio.start_sample: 16099 is not valid; the call is at sample 16100"
    )


@pytest.mark.parametrize(
    ("sequence", "start_sample", "field"),
    [
        (1 + 1802, None, "audio.sequence: 1803"),
        (2, 3602 * RATE + 1, "audio.start_sample: 28816001"),
    ],
)
def test_gap_of_more_than_an_hour_is_a_mistake(call, speech, sequence, start_sample, field):
    call.session.audio(1, speech)
    with pytest.raises(InvalidArgument) as caught:
        call.session.audio(sequence, speech, start_sample)
    assert str(caught.value) == f"{field} is not valid; it would leave a gap of 1 h"


def test_gap_of_an_hour_is_accepted(call, bench, speech):
    call.session.audio(1, speech)
    call.session.audio(1 + 1801, speech)
    assert bench.finish(call).finals[0].lost_seconds == 3600.0


def test_loss_is_skipped_not_invented(bench, speech):
    """The posteriors after a gap rest on what did arrive."""
    one, other = speech[:RATE], speech[RATE : 2 * RATE]
    complete = bench.play([one, other]).finals[0]
    recorder = bench.session()
    recorder.session.audio(1, one)
    recorder.session.audio(50, other)
    final = bench.finish(recorder).finals[0]
    assert final.posteriors == complete.posteriors
    assert final.speech_seconds == complete.speech_seconds


def test_updates_stay_on_the_grid_after_a_gap(bench, speech):
    recorder = bench.session(update_seconds=0.5)
    for sequence, start_sample in ((1, None), (2, 5 * RATE), (3, None), (4, None)):
        chunk = speech[2400 * sequence : 2400 * (sequence + 1)]
        recorder.session.audio(sequence, chunk, start_sample)
        bench.settle(recorder)
    bench.finish(recorder)
    # at 0.3, 5.3, 5.6 and 5.9 s: the second passes many points of the grid, the third 5.5 s
    running = [(u.sequence, u.audio_seconds) for u in recorder.updates if not u.final]
    assert running == [(2, 5.3), (3, 5.6)]


# --- bad audio ---


def test_empty_audio_is_refused(call):
    with pytest.raises(InvalidArgument, match=r"^audio\.data: 0 bytes is not valid; send at least"):
        call.session.audio(1, b"")


def test_part_of_a_sample_is_refused(bench):
    recorder = bench.session(encoding=Encoding.LINEAR16, ignored=(False, True))
    with pytest.raises(InvalidArgument, match=r"^audio\.data: 6 bytes is not valid; .* 4 bytes$"):
        recorder.session.audio(1, bytes(6))


@pytest.mark.parametrize(
    ("encoding", "rate", "channels"), [f for f in FORMATS if f[0] is not Encoding.ALAW]
)
def test_longest_message_is_a_time_not_a_size(bench, encoding, rate, channels):
    most = 10 * rate * channels * encoding.width
    recorder = bench.session(**configured(encoding, rate, channels))
    recorder.session.audio(1, b"\xff" * most)
    with pytest.raises(LimitExceeded, match=r"^audio\.data: 11 s exceeds the limit of 10 s"):
        recorder.session.audio(2, b"\xff" * (most + most // 10))
    assert recorder.session.audio_seconds == 10.0
