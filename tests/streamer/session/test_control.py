"""Discard, hold, resume, finish, and the end."""

import pytest

from streamer.audio.codec import Encoding
from streamer.errors import FailedPrecondition
from streamer.session.session import CallConfig

RATE = 8000


def test_discard_resets_speech_but_not_time(bench, speech, voices, audio):
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
    """Results of blocks from before the discard are dropped."""
    student = make_student()
    bench = make_bench(student)
    recorder = bench.session()
    student.gate.clear()
    recorder.session.audio(1, speech)
    assert student.stepping.wait(10)
    recorder.session.discard([0])
    assert recorder.session.backlog.blocks == 0
    student.gate.set()
    bench.quiet()
    assert recorder.updates == []
    recorder.session.audio(2, speech)
    assert bench.finish(recorder).finals[0].posteriors == bench.play([speech]).finals[0].posteriors


def test_control_changes_only_its_channels(bench, audio, sides):
    data = audio.wire(sides, Encoding.MULAW)
    expected = bench.play([data, data], ignored=(False, False)).finals
    recorder = bench.session(ignored=(False, False))
    recorder.session.audio(1, data)
    recorder.session.discard([1])
    recorder.session.audio(2, data)
    finals = bench.finish(recorder).finals
    assert finals[0] == expected[0]
    assert finals[1].speech_seconds < expected[1].speech_seconds


def test_hold_drops_audio_and_counts_time(bench, speech, voices, audio):
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


def test_call_that_ends_on_hold(bench, speech):
    recorder = bench.session()
    recorder.session.audio(1, speech[:5001])
    recorder.session.hold([], held=False)  # no effect without a hold
    recorder.session.audio(2, speech[5001:])
    recorder.session.hold([], held=True)
    recorder.session.audio(3, speech)
    final = bench.finish(recorder).finals[0]
    alone = bench.play([speech]).finals[0]
    assert final.posteriors == alone.posteriors
    assert final.speech_seconds == alone.speech_seconds
    assert (final.audio_seconds, final.sequence) == (4.0, 3)


def test_control_of_an_ignored_channel_does_nothing(bench, audio, sides):
    data = audio.wire(sides, Encoding.MULAW)
    expected = bench.play([data, data], ignored=(True, False)).finals
    recorder = bench.session(ignored=(True, False))
    recorder.session.audio(1, data)
    recorder.session.discard([0])
    recorder.session.hold([0], held=True)
    recorder.session.audio(2, data)
    assert bench.finish(recorder).finals == expected


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
def test_message_after_finish_is_refused(call, bench, speech, field, act):
    call.session.audio(1, speech)
    bench.finish(call)
    with pytest.raises(FailedPrecondition) as caught:
        act(call.session)
    assert str(caught.value) == f"{field}: the call is already finished"


def test_closed_session_sends_nothing(make_bench, make_student, speech):
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


def test_config_is_immutable():
    with pytest.raises(AttributeError):
        CallConfig("x", Encoding.MULAW, 8000).sample_rate = 16000
