import functools
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamer.channel import FRAME_SAMPLES, Update
from streamer.codec import Encoding
from streamer.errors import FailedPrecondition, InvalidArgument, LimitExceeded, StudentFailed
from streamer.session import CallConfig

RATE = 8000
FORMATS = [
    (encoding, rate, channels)
    for encoding in Encoding
    for rate in (8000, 16000)
    for channels in (1, 2)
]
chunk_sizes = st.lists(
    st.one_of(st.integers(1, 30), st.integers(1, 2000), st.integers(1, 5 * RATE)),
    min_size=1,
    max_size=30,
)


@pytest.fixture(scope="module")
def sides(voices):
    """Two sides of 3 s: speech and a pause, crossing over each other."""
    return (voices.caller[7 * RATE : 10 * RATE], voices.agent[7 * RATE : 10 * RATE])


def configured(encoding, rate, channels, **more):
    return {"encoding": encoding, "sample_rate": rate, "ignored": (False,) * channels} | more


@pytest.fixture
def call(bench):
    """A mono mu-law call on the fake student, with speech events."""
    return bench.session(speech_events=True)


@pytest.fixture(scope="module")
def speech(voices, audio):
    """2 s of a speaking caller, mu-law."""
    return audio.wire([voices.caller[5 * RATE : 7 * RATE]], Encoding.MULAW)


# --- the posteriors depend on the speech and on nothing else ---


@pytest.mark.parametrize(("encoding", "rate", "channels"), FORMATS)
def test_finals_are_a_plain_loop_over_the_speech(bench, audio, sides, encoding, rate, channels):
    data = audio.wire(sides[:channels], encoding, rate)
    frame = encoding.width * channels
    result = bench.play(
        audio.cut(data, [rate // 10], frame), **configured(encoding, rate, channels)
    )
    assert set(result.finals) == set(range(channels))
    for channel, heard in enumerate(audio.as_heard(data, encoding, rate, channels)):
        posteriors, samples = audio.direct(bench.student, heard)
        final = result.finals[channel]
        assert final.posteriors == tuple(posteriors)
        assert final.speech_seconds == samples / RATE > 0.5
        assert final.audio_seconds == pytest.approx(3.0)
        assert final.lost_seconds == 0.0


@pytest.fixture(scope="module")
def uncut(bench, audio, sides):
    """By format: a call's bytes, the call in one chunk, the call in small ones, its config."""

    @functools.cache
    def play(encoding, rate, channels):
        config = configured(encoding, rate, channels, update_seconds=0.1, speech_events=True)
        data = audio.wire(sides[:channels], encoding, rate)
        fine = bench.session(**config)
        for sequence, chunk in enumerate(
            audio.cut(data, [rate // 50], encoding.width * channels), start=1
        ):
            fine.session.audio(sequence, chunk)
            bench.settle(fine)
        return data, bench.play([data], **config), bench.finish(fine), config

    return play


@pytest.mark.parametrize(("encoding", "rate", "channels"), FORMATS)
@given(sizes=chunk_sizes)
def test_any_chunking_gives_the_same_posteriors(
    bench, audio, uncut, encoding, rate, channels, sizes
):
    data, one, fine, config = uncut(encoding, rate, channels)
    frame = encoding.width * channels
    many = bench.play(audio.cut(data, sizes, frame, most=300), **config)
    for channel, final in one.finals.items():
        assert many.finals[channel].posteriors == final.posteriors
        assert many.finals[channel].speech_seconds == final.speech_seconds > 0.5
    assert sorted(many.events) == sorted(one.events) != []
    # and on the way there: what is said after so much speech is always the same
    common = many.course.keys() & fine.course.keys()
    assert all(many.course[point] == fine.course[point] for point in common)
    assert len(common) >= channels


def test_every_block_is_told_of(uncut):
    """The course that the test above compares with has an entry for nearly every block."""
    fine = uncut(*FORMATS[0])[2]
    assert len(fine.course) >= 8


@pytest.mark.parametrize(("encoding", "rate", "channels"), [FORMATS[0], FORMATS[-1]])
def test_sample_by_sample(bench, audio, sides, encoding, rate, channels):
    data = audio.wire([side[:RATE] for side in sides[:channels]], encoding, rate)
    config = configured(encoding, rate, channels)
    one = bench.play([data], **config)
    many = bench.play(audio.cut(data, [1], encoding.width * channels), **config)
    assert many.session.audio_seconds == 1.0
    for channel, final in one.finals.items():
        assert many.finals[channel].posteriors == final.posteriors is not None


def test_long_call_in_chunks_up_to_five_seconds(bench, audio, voices, demo_call):
    config = configured(Encoding.MULAW, RATE, 2)
    for samples in (160, 800, 5 * RATE):
        result = bench.play(audio.cut(demo_call.data, [samples], 2), **config)
        for channel, side in enumerate((voices.caller, voices.agent)):
            posteriors, heard = audio.direct(bench.student, side)
            assert result.finals[channel].posteriors == tuple(posteriors)
            assert result.finals[channel].speech_seconds == heard / RATE > 10


@settings(max_examples=4)
@given(sizes=chunk_sizes)
@example(sizes=[1])
@example(sizes=[5 * RATE])
def test_real_student_any_chunking(real_bench, audio, voices, sizes):
    samples = voices.caller[5 * RATE : 7 * RATE]
    data = audio.wire([samples], Encoding.MULAW)
    result = real_bench.play(audio.cut(data, sizes), update_seconds=0.1)
    posteriors, heard = audio.direct(real_bench.student, samples)
    assert result.finals[0].speech_seconds == heard / RATE
    for got, wanted in zip(result.finals[0].posteriors, posteriors, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("encoding", "rate", "channels"), FORMATS)
def test_real_student_every_format(real_bench, audio, sides, encoding, rate, channels):
    data = audio.wire(sides[:channels], encoding, rate)
    frame = encoding.width * channels
    config = configured(encoding, rate, channels)
    result = real_bench.play(audio.cut(data, [37, 5000, 1, 811], frame), **config)
    for channel, heard in enumerate(audio.as_heard(data, encoding, rate, channels)):
        posteriors, _ = audio.direct(real_bench.student, heard)
        for got, wanted in zip(result.finals[channel].posteriors, posteriors, strict=True):
            np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-4)


# --- the calls in a batch do not hear each other ---


def interleaved(bench, calls, turns):
    """Play calls at once, chunk by chunk in the order of ``turns``, then what is left."""
    recorders = [bench.session(call_id=str(index)) for index in range(len(calls))]
    waiting = [list(enumerate(chunks, start=1)) for chunks in calls]
    rest = [index for index, chunks in enumerate(calls) for _ in chunks]
    for turn in (*turns, *rest):
        index = turn % len(calls)
        if waiting[index]:
            recorders[index].session.audio(*waiting[index].pop(0))
            if turn % 3 == 0:
                bench.pump()
    for recorder in recorders:
        recorder.session.finish()
    bench.wait(lambda: all(recorder.session.done for recorder in recorders))
    return [recorder.finals[0] for recorder in recorders]


@pytest.fixture(scope="module")
def crowd(audio, voices):
    """Five calls of different speech, each cut otherwise."""
    starts = [(voices.caller, 5), (voices.agent, 1), (voices.caller, 12), (voices.agent, 9)]
    signals = [side[start * RATE : (start + 2) * RATE] for side, start in starts]
    signals.append(np.zeros(2 * RATE, np.int16))
    return [
        audio.cut(audio.wire([signal], Encoding.MULAW), [size])
        for signal, size in zip(signals, (160, 400, 1111, 8000, 800), strict=True)
    ]


@given(turns=st.lists(st.integers(0, 999), max_size=80))
def test_calls_in_one_batch_are_independent(bench, crowd, turns):
    together = interleaved(bench, crowd, turns)
    for chunks, final in zip(crowd, together, strict=True):
        alone = bench.play(chunks).finals[0]
        assert final.posteriors == alone.posteriors
        assert final.speech_seconds == alone.speech_seconds


@settings(max_examples=3)
@given(turns=st.lists(st.integers(0, 999), min_size=10, max_size=80))
def test_real_student_calls_in_one_batch_are_independent(real_bench, crowd, turns):
    together = interleaved(real_bench, crowd, turns)
    assert together[-1].posteriors is None
    for chunks, final in zip(crowd[:-1], together[:-1], strict=True):
        alone = real_bench.play(chunks).finals[0]
        for got, wanted in zip(final.posteriors, alone.posteriors, strict=True):
            np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-4)


def test_crowd_differs(bench, crowd):
    """The fake student tells the calls of the tests above apart."""
    posteriors = [bench.play(chunks).finals[0].posteriors for chunks in crowd]
    assert len({str(p) for p in posteriors}) == len(crowd)


# --- updates ---


@pytest.mark.parametrize(("interval", "chunk"), [(0.5, 0.1), (0.1, 0.02), (1.0, 0.1), (0.3, 0.1)])
def test_updates_come_on_the_grid(make_bench, audio, voices, interval, chunk):
    bench = make_bench()
    data = audio.wire([voices.caller[5 * RATE : 8 * RATE]], Encoding.MULAW)
    result = bench.session(update_seconds=interval)
    for sequence, part in enumerate(audio.cut(data, [round(chunk * RATE)]), start=1):
        result.session.audio(sequence, part)
        bench.settle(result)
    bench.finish(result)
    *running, final = result.updates
    assert [u.final for u in result.updates] == [False] * len(running) + [True]
    expected = [interval * (k + 1) for k in range(math.floor(3.0 / interval + 1e-9))]
    assert [u.audio_seconds for u in running] == pytest.approx(expected)
    assert [u.sequence for u in running] == [round(s / chunk) for s in expected]
    assert (final.sequence, final.audio_seconds) == (round(3.0 / chunk), 3.0)


def test_update_waits_for_the_audio_it_speaks_of(make_bench, make_student, speech):
    """An update due at 1 s is not sent before the speech up to 1 s has gone through."""
    student = make_student()
    bench = make_bench(student)
    recorder = bench.session(update_seconds=1.0)
    student.gate.clear()
    recorder.session.audio(1, speech[:RATE])
    assert student.stepping.wait(10)
    bench.pump()
    assert recorder.updates == []
    assert recorder.session.backlog == RATE // 1280
    student.gate.set()
    bench.wait(lambda: recorder.updates)
    (update,) = recorder.updates
    assert update.speech_seconds == RATE // 1280 * 0.16
    assert update.posteriors is not None


def test_overtaken_updates_are_left_out(make_bench, make_student, speech, audio):
    """Under load one update of the present replaces those of the past."""
    student = make_student()
    bench = make_bench(student)
    recorder = bench.session(update_seconds=0.1)
    student.gate.clear()
    for sequence, part in enumerate(audio.cut(speech, [RATE // 10]), start=1):
        recorder.session.audio(sequence, part)
    student.gate.set()
    bench.finish(recorder)
    assert len(recorder.updates) < 10
    assert recorder.finals[0].sequence == 20
    assert recorder.finals[0].audio_seconds == 2.0


def test_audio_faster_than_the_student_starves_no_update(bench, speech, audio):
    """A second per block heard: an update is always waiting when the next is asked for."""
    recorder = bench.session(update_seconds=0.1)
    parts = audio.cut(speech, [RATE // 10])
    for sequence, part in enumerate(parts * 5, start=1):
        recorder.session.audio(sequence, part)
        if sequence % 10 == 0:
            done = sum(c.completed for c in recorder.session._channels.values())
            bench.wait(
                lambda done=done: (
                    sum(c.completed for c in recorder.session._channels.values()) > done
                )
            )
    running = [update for update in recorder.updates if not update.final]
    assert len(running) >= 3
    bench.finish(recorder)


def test_long_chunk_is_one_update(bench, speech):
    recorder = bench.session(update_seconds=0.1)
    for sequence, chunk in enumerate((speech[:RATE], speech[RATE:]), start=1):
        recorder.session.audio(sequence, chunk)
        bench.settle(recorder)
    bench.finish(recorder)
    assert [(u.audio_seconds, u.final) for u in recorder.updates if not u.final] == [
        (1.0, False),
        (2.0, False),
    ]


def test_silence_is_updated_too(bench):
    recorder = bench.play([b"\xff" * RATE] * 3, update_seconds=1.0)
    assert recorder.updates == [
        Update(0, n, float(n), 0.0, 0.0, None, final=False) for n in (1, 2, 3)
    ] + [Update(0, 3, 3.0, 0.0, 0.0, None, final=True)]


def test_no_audio_is_one_final_update(bench):
    recorder = bench.finish(bench.session(ignored=(False, False)))
    assert recorder.updates == [
        Update(channel, 0, 0.0, 0.0, 0.0, None, final=True) for channel in (0, 1)
    ]


def test_tail_counts_whole_frames_only(bench, audio, voices):
    """1 s + 50 ms of speech: 6 blocks and the tail's whole 20 ms frames."""
    samples = voices.caller[5 * RATE : 5 * RATE + 8400]
    recorder = bench.play([audio.wire([samples], Encoding.MULAW)])
    posteriors, heard = audio.direct(bench.student, samples)
    assert heard % FRAME_SAMPLES == 0
    assert recorder.finals[0].speech_seconds == heard / RATE
    assert recorder.finals[0].posteriors == tuple(posteriors)


def test_ignored_channel_is_not_listened_to(make_bench, audio, sides):
    bench = make_bench()
    data = audio.wire(sides, Encoding.MULAW)
    recorder = bench.play([data], ignored=(True, False), speech_events=True)
    assert {u.channel for u in recorder.updates} == {1}
    assert {channel for channel, _, _ in recorder.events} == {1}
    blocks = sum(map(len, bench.student.batches))
    alone = bench.play([audio.wire(sides[1:], Encoding.MULAW)]).finals[0]
    assert recorder.finals[1].posteriors == alone.posteriors
    assert sum(map(len, bench.student.batches)) == 2 * blocks, "the ignored channel cost steps"


# --- speech events ---


def test_speech_events_name_the_turns(bench, audio, voices):
    quiet = np.zeros(RATE, np.int16)
    turn = voices.caller[5 * RATE : 7 * RATE]
    data = audio.wire([np.concatenate([quiet, turn, quiet, turn, quiet])], Encoding.MULAW)
    events = bench.play(audio.cut(data, [777]), speech_events=True).events
    assert [(channel, started) for channel, started, _ in events] == [(0, True), (0, False)] * 2
    times = [seconds for *_, seconds in events]
    for seconds, near in zip(times, (1.0, 3.0, 4.0, 6.0), strict=True):
        assert near - 0.07 <= seconds <= near + 0.3


def test_speech_events_come_only_if_asked_for(bench, speech):
    assert bench.play([speech], speech_events=False).events == []


def test_speech_that_runs_into_the_end_is_ended(bench, speech):
    recorder = bench.play([speech], speech_events=True)
    assert [started for _, started, _ in recorder.events] == [True, False]
    assert recorder.events[-1][2] == 2.0


@pytest.mark.parametrize("rate", [8000, 16000])
def test_event_times_are_in_seconds_of_the_call(bench, audio, voices, rate):
    side = np.concatenate([np.zeros(RATE, np.int16), voices.caller[5 * RATE : 6 * RATE]])
    data = audio.wire([side], Encoding.LINEAR16, rate)
    recorder = bench.session(**configured(Encoding.LINEAR16, rate, 1, speech_events=True))
    recorder.session.audio(1, data)
    recorder.session.audio(5, data, start_sample=10 * rate)
    starts = [s for _, started, s in bench.finish(recorder).events if started]
    assert starts[0] == pytest.approx(1.0, abs=0.3)
    assert any(s == pytest.approx(10 + starts[0], abs=0.1) for s in starts)


def test_events_keep_time_after_discards(bench, audio, voices):
    """What a discard drops has passed all the same."""
    recorder = bench.session(speech_events=True)
    quiet = audio.wire([np.zeros(479, np.int16)], Encoding.MULAW)  # 1 short of two gate frames
    for sequence in range(1, 101):
        recorder.session.audio(sequence, quiet)
        recorder.session.discard([])
    side = np.concatenate([np.zeros(RATE, np.int16), voices.caller[5 * RATE : 7 * RATE]])
    recorder.session.audio(101, audio.wire([side], Encoding.MULAW))
    bench.finish(recorder)
    assert recorder.session.audio_seconds == 47900 / RATE + 3
    started = recorder.events[0][2]
    assert started == pytest.approx(47900 / RATE + 1, abs=0.3)


def test_events_keep_time_after_a_hold(bench, audio, voices):
    recorder = bench.session(speech_events=True)
    recorder.session.audio(1, b"\xff" * 479)
    recorder.session.hold([], held=True)
    recorder.session.audio(2, b"\xff" * 10001)
    recorder.session.hold([], held=False)
    side = np.concatenate([np.zeros(RATE, np.int16), voices.caller[5 * RATE : 7 * RATE]])
    recorder.session.audio(3, audio.wire([side], Encoding.MULAW))
    bench.finish(recorder)
    assert recorder.events[0][2] == pytest.approx(10480 / RATE + 1, abs=0.3)
    assert recorder.events[-1][1:] == (False, pytest.approx(10480 / RATE + 3))


def test_events_alternate_through_discard_and_hold(call, bench, speech):
    """Whoever was speaking has stopped when the speaker is forgotten."""
    call.session.audio(1, speech)
    call.session.discard([])
    call.session.audio(2, speech)
    call.session.hold([], held=True)
    call.session.hold([], held=False)
    call.session.audio(3, speech)
    bench.finish(call)
    assert [started for _, started, _ in call.events] == [True, False] * 3


# --- sequence, loss ---


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


# --- control ---


def test_discard_forgets_speaker_but_not_time(bench, speech, voices, audio):
    other = audio.wire([voices.agent[1 * RATE : 3 * RATE]], Encoding.MULAW)
    recorder = bench.session()
    recorder.session.audio(1, speech)
    recorder.session.discard([])
    recorder.session.audio(2, other)
    final = bench.finish(recorder).finals[0]
    alone = bench.play([other]).finals[0]
    assert final.posteriors == alone.posteriors
    assert final.speech_seconds == alone.speech_seconds
    assert (final.audio_seconds, final.sequence) == (4.0, 2)


def test_discard_with_steps_in_flight(make_bench, make_student, speech):
    """Answers to blocks from before the discard are never heard of."""
    student = make_student()
    bench = make_bench(student)
    recorder = bench.session()
    student.gate.clear()
    recorder.session.audio(1, speech)
    assert student.stepping.wait(10)
    recorder.session.discard([0])
    assert recorder.session.backlog == 0
    student.gate.set()
    bench.quiet()
    assert recorder.updates == []
    recorder.session.audio(2, speech)
    assert bench.finish(recorder).finals[0].posteriors == bench.play([speech]).finals[0].posteriors


def test_discard_then_nothing_is_no_speech(bench, speech):
    recorder = bench.session()
    recorder.session.audio(1, speech)
    recorder.session.discard([])
    final = bench.finish(recorder).finals[0]
    assert (final.posteriors, final.speech_seconds) == (None, 0.0)


def test_control_concerns_only_the_channels_named(bench, audio, sides):
    data = audio.wire(sides, Encoding.MULAW)
    expected = bench.play([data, data], ignored=(False, False)).finals
    recorder = bench.session(ignored=(False, False))
    recorder.session.audio(1, data)
    recorder.session.discard([1])
    recorder.session.audio(2, data)
    finals = bench.finish(recorder).finals
    assert finals[0] == expected[0]
    assert finals[1].speech_seconds < expected[1].speech_seconds


def test_hold_hears_nothing_and_counts_time(bench, speech, voices, audio):
    music = audio.wire([voices.agent[1 * RATE : 4 * RATE]], Encoding.MULAW)
    recorder = bench.session(speech_events=True)
    recorder.session.audio(1, speech)
    recorder.session.hold([], held=True)
    recorder.session.hold([], held=True)  # twice is the same as once
    recorder.session.audio(2, music)
    assert [started for _, started, _ in recorder.events] == [True, False]
    assert recorder.events[-1][2] == 2.0
    recorder.session.hold([], held=False)
    recorder.session.audio(3, speech)
    final = bench.finish(recorder).finals[0]
    assert final.audio_seconds == 7.0
    # the hold closes the gate: the same as two turns with the line cut in between
    blocks_twice = bench.session()
    blocks_twice.session.audio(1, speech)
    blocks_twice.session.hold([], held=True)
    blocks_twice.session.hold([], held=False)
    blocks_twice.session.audio(2, speech)
    assert final.posteriors == bench.finish(blocks_twice).finals[0].posteriors
    assert final.speech_seconds == pytest.approx(4.0, abs=0.2)


def test_resume_without_hold_does_nothing(bench, speech):
    recorder = bench.session()
    recorder.session.audio(1, speech[:5001])
    recorder.session.hold([], held=False)
    recorder.session.audio(2, speech[5001:])
    assert bench.finish(recorder).finals[0].posteriors == bench.play([speech]).finals[0].posteriors


def test_call_that_ends_on_hold(bench, speech):
    recorder = bench.session()
    recorder.session.audio(1, speech)
    recorder.session.hold([], held=True)
    recorder.session.audio(2, speech)
    final = bench.finish(recorder).finals[0]
    alone = bench.play([speech]).finals[0]
    assert final.posteriors == alone.posteriors
    assert final.speech_seconds == alone.speech_seconds
    assert (final.audio_seconds, final.sequence) == (4.0, 2)


def test_control_of_an_ignored_channel_does_nothing(bench, audio, sides):
    data = audio.wire(sides, Encoding.MULAW)
    expected = bench.play([data, data], ignored=(True, False)).finals
    recorder = bench.session(ignored=(True, False))
    recorder.session.audio(1, data)
    recorder.session.discard([0])
    recorder.session.hold([0], held=True)
    recorder.session.audio(2, data)
    assert bench.finish(recorder).finals == expected


@pytest.mark.parametrize("action", ["discard", "hold", "resume"])
def test_unknown_channel_is_refused(call, action):
    act = {
        "discard": lambda: call.session.discard([0, 3]),
        "hold": lambda: call.session.hold([0, 3], held=True),
        "resume": lambda: call.session.hold([0, 3], held=False),
    }
    with pytest.raises(InvalidArgument) as caught:
        act[action]()
    assert str(caught.value) == "control.channels: 3 is not valid; the call has 1 channels"


@pytest.mark.parametrize(
    ("field", "act"),
    [
        ("audio", lambda s: s.audio(2, b"\xff")),
        ("control.discard", lambda s: s.discard([])),
        ("control.hold", lambda s: s.hold([], held=True)),
        ("control.resume", lambda s: s.hold([], held=False)),
        ("control.finish", lambda s: s.finish()),
    ],
)
def test_nothing_may_follow_the_finish(call, bench, speech, field, act):
    call.session.audio(1, speech)
    bench.finish(call)
    with pytest.raises(FailedPrecondition) as caught:
        act(call.session)
    assert str(caught.value) == f"{field}: the call is already finished"


def test_closed_session_is_silent(make_bench, make_student, speech):
    student = make_student()
    bench = make_bench(student)
    recorder = bench.session()
    student.gate.clear()
    recorder.session.audio(1, speech)
    assert student.stepping.wait(10)
    recorder.session.close()
    student.gate.set()
    bench.quiet()
    assert (recorder.updates, recorder.errors) == ([], [])


def test_failing_student_fails_the_call(make_bench, make_student, audio):
    """Also on the other channel: the call is one."""
    bench = make_bench()
    noise = np.random.default_rng(1).integers(-9000, 9000, 4 * RATE).astype(np.int16)
    recorder = bench.session(encoding=Encoding.LINEAR16)
    noise[0] = make_student.RAISES  # first sample of the first block
    recorder.session.audio(1, audio.wire([noise], Encoding.LINEAR16))
    bench.wait(lambda: recorder.errors)
    bench.quiet(0.05)
    (error,) = recorder.errors
    assert isinstance(error, StudentFailed)
    assert (error.status, "ArithmeticError" in str(error)) == ("INTERNAL", True)
    assert recorder.updates == []


def test_config_is_immutable():
    with pytest.raises(AttributeError):
        CallConfig("x", Encoding.MULAW, 8000).sample_rate = 16000
