"""Updates: their times and their content."""

import math

import pytest

from streamer.audio.codec import Encoding
from streamer.session.channel import FRAME_SAMPLES, Update

RATE = 8000


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


def test_update_waits_for_its_audio(make_bench, make_student, speech):
    """An update due at 1 s is not sent before the speech up to 1 s has gone through."""
    student = make_student()
    bench = make_bench(student)
    recorder = bench.session(update_seconds=1.0)
    student.gate.clear()
    recorder.session.audio(1, speech[:RATE])
    assert student.stepping.wait(10)
    bench.pump()
    assert recorder.updates == []
    assert recorder.session.backlog.blocks == RATE // 1280
    student.gate.set()
    bench.wait(lambda: recorder.updates)
    (update,) = recorder.updates
    assert update.speech_seconds == RATE // 1280 * 0.16
    assert update.posteriors is not None


def test_overtaken_updates_are_dropped(make_bench, make_student, speech, audio):
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


def test_updates_continue_while_the_model_is_behind(bench, speech, audio):
    """A second per block: an update always waits when the next is requested."""
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


def test_tail_counts_whole_frames_only(bench, audio, voices):
    """1 s + 50 ms of speech: 6 blocks and the tail's whole 20 ms frames."""
    samples = voices.caller[5 * RATE : 5 * RATE + 8400]
    recorder = bench.play([audio.wire([samples], Encoding.MULAW)])
    posteriors, speech_samples = audio.direct(bench.student, samples)
    assert speech_samples % FRAME_SAMPLES == 0
    assert recorder.finals[0].speech_seconds == speech_samples / RATE
    assert recorder.finals[0].posteriors == tuple(posteriors)


def test_ignored_channel_is_not_processed(make_bench, audio, sides):
    bench = make_bench()
    data = audio.wire(sides, Encoding.MULAW)
    recorder = bench.play([data], ignored=(True, False), speech_events=True)
    assert {u.channel for u in recorder.updates} == {1}
    assert {channel for channel, _, _ in recorder.events} == {1}
    blocks = sum(map(len, bench.student.batches))
    alone = bench.play([audio.wire(sides[1:], Encoding.MULAW)]).finals[0]
    assert recorder.finals[1].posteriors == alone.posteriors
    assert sum(map(len, bench.student.batches)) == 2 * blocks, "the ignored channel cost steps"
