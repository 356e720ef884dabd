"""Discard, hold, resume, finish, and the end."""

import numpy as np
import pytest

from streamer.audio.codec import Encoding
from streamer.errors import FailedPrecondition, InferenceFailed, InvalidArgument
from streamer.session.session import CallConfig

RATE = 8000


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
    assert isinstance(error, InferenceFailed)
    assert (error.status, "ArithmeticError" in str(error)) == ("INTERNAL", True)
    assert recorder.updates == []


def test_config_is_immutable():
    with pytest.raises(AttributeError):
        CallConfig("x", Encoding.MULAW, 8000).sample_rate = 16000
