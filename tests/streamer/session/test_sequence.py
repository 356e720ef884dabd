"""Sequence numbers, loss, and audio that is not acceptable."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.errors import InvalidArgument

RATE = 8000


@pytest.mark.parametrize(
    ("first", "second", "lost_seconds"),
    [
        ((2**64 - 2, None), (2**64 - 1, None), 0.0),
        ((0, None), (1, None), 0.0),
        ((1, None), (4, None), 4.0),  # as long as the message behind the gap
        ((1, 0), (2, 2 * RATE + 12000), 1.5),  # suppressed silence
        ((1, 0), (4, 2 * RATE + 12000), 1.5),  # start_sample precedes sequence
        ((1, 0), (9, 2 * RATE), 0.0),
        ((5, 3 * RATE), (6, None), 3.0),
        ((1, None), (1 + 1801, None), 3600.0),  # the longest gap
    ],
)
def test_gap_is_counted(call, bench, speech, first, second, lost_seconds):
    for sequence, start_sample in (first, second):
        call.session.audio(sequence, speech, start_sample)
    final = bench.finish(call).finals[0]
    assert (final.sequence, final.lost_seconds) == (second[0], lost_seconds)
    assert final.audio_seconds == 4.0 + lost_seconds


@pytest.mark.parametrize(
    ("sequence", "samples", "start_sample", "message"),
    [
        (6, 800, None, "audio.sequence: 6 is not valid; it must rise; the last was 7"),
        (8, 800, 16099, "audio.start_sample: 16099 is not valid; the call is at sample 16100"),
        (7 + 1802, 16000, None, "audio.sequence: 1809 is not valid; it would leave a gap of 1 h"),
        (
            8,
            800,
            3602 * RATE + 101,
            "audio.start_sample: 28816101 is not valid; it would leave a gap of 1 h",
        ),
        (8, 0, None, "audio.data: 0 bytes is not valid; send at least one sample"),
    ],
)
def test_bad_audio_is_refused(call, speech, sequence, samples, start_sample, message):
    call.session.audio(7, speech, start_sample=100)
    with pytest.raises(InvalidArgument) as caught:
        call.session.audio(sequence, speech[:samples], start_sample)
    assert str(caught.value) == message


@given(again=st.lists(st.integers(0, 9), max_size=12))
def test_duplicates_change_nothing(bench, audio, speech, again):
    chunks = audio.cut(speech, [RATE // 5])
    expected = bench.play(chunks).finals[0]
    recorder = bench.session()
    for sequence, chunk in enumerate(chunks):
        for _ in range(1 + again.count(sequence)):
            recorder.session.audio(sequence, chunk)
    assert bench.finish(recorder).finals[0] == expected._replace(sequence=9)
    assert recorder.session.duplicates == len(again)


def test_gap_adds_no_speech(bench, speech):
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
