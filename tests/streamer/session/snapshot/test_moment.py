"""Which moment of a call a snapshot is of."""

import numpy as np
import pytest

from streamer.audio.codec import Encoding
from streamer.errors import InferenceFailed
from tests.streamer.session.snapshot.steps import RATE, plain, snapshot


def test_snapshot_is_of_the_moment_of_the_request(make_bench, make_student, speech, elsewhere):
    """Blocks behind it are done in the same run of the engine, and are not in it."""
    student = make_student()
    bench = make_bench(student)
    before = elsewhere.session()
    before.session.audio(1, speech[:RATE])
    expected = snapshot(elsewhere, before)
    student.gate.clear()
    recorder, states = bench.session(), []
    recorder.session.audio(1, speech[:RATE])
    assert student.stepping.wait(10)
    recorder.session.snapshot(states.append)
    recorder.session.audio(2, speech[RATE:])
    bench.pump()
    assert states == [], "inference has not reached it yet"
    student.gate.set()
    bench.settle(recorder)
    (state,) = states
    assert plain(state) == plain(expected)


def test_updates_precede_the_snapshot(make_bench, speech):
    bench = make_bench()
    recorder, order = bench.session(update_seconds=0.1), []
    recorder.on_prediction = lambda update: order.append(update.sequence)
    recorder.session.audio(1, speech)
    recorder.session.snapshot(order.append)
    bench.settle(recorder)
    bench.wait(lambda: len(order) == 2)
    assert order[0] == 1
    assert order[1].sequence == 1


def test_snapshot_contains_a_later_discard(make_bench, make_student, speech):
    student = make_student()
    bench = make_bench(student)
    student.gate.clear()
    recorder, states = bench.session(ignored=(False, False)), []
    recorder.session.audio(1, speech)
    assert student.stepping.wait(10)
    recorder.session.snapshot(states.append)
    recorder.session.discard([0])
    student.gate.set()
    bench.wait(lambda: states)
    bench.quiet()
    (state,) = states
    assert state.channels[0].speech == 0
    assert not state.channels[0].memory.state.any()
    assert state.channels[1].speech > 0


def test_newer_snapshot_replaces_a_pending_one(make_bench, make_student, speech):
    student = make_student()
    bench = make_bench(student)
    student.gate.clear()
    recorder, first, second = bench.session(), [], []
    recorder.session.audio(1, speech[:RATE])
    recorder.session.snapshot(first.append)
    recorder.session.audio(2, speech[RATE:])
    recorder.session.snapshot(second.append)
    student.gate.set()
    bench.wait(lambda: second)
    bench.quiet()
    assert (len(first), len(second)) == (0, 1)
    assert second[0].sequence == 2


@pytest.mark.parametrize("end", ["close", "finish"])
def test_ended_call_has_no_snapshot(bench, speech, end):
    recorder, states = bench.session(), []
    recorder.session.audio(1, speech)
    getattr(recorder.session, end)()
    recorder.session.snapshot(states.append)
    bench.quiet()
    assert states == []


def test_failed_call_has_no_snapshot(make_bench, make_student):
    student = make_student()
    bench = make_bench(student)
    recorder, states = bench.session(encoding=Encoding.LINEAR16), []
    noise = np.random.default_rng(1).integers(-9000, 9000, RATE).astype("<i2")
    student.step = lambda *_: (_ for _ in ()).throw(ArithmeticError("marker"))
    recorder.session.audio(1, noise.tobytes())
    recorder.session.snapshot(states.append)
    bench.wait(lambda: recorder.errors)
    bench.quiet()
    assert states == []
    assert isinstance(recorder.errors[0], InferenceFailed)


def test_snapshot_is_not_changed_later(bench, speech):
    recorder = bench.session(sample_rate=16000)
    recorder.session.audio(1, speech[:RATE])
    state = snapshot(bench, recorder)
    before = plain(state)
    recorder.session.audio(2, speech[RATE:])
    bench.settle(recorder)
    recorder.session.discard([])
    assert plain(state) == before
