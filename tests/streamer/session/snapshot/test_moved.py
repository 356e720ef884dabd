"""A call that goes on elsewhere from a snapshot is the call that never moved, bit for bit."""

import numpy as np
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from streamer.audio.codec import Encoding
from tests.streamer.session.formats import FORMATS
from tests.streamer.session.snapshot.steps import (
    RATE,
    config_of,
    messages,
    resumed,
    send,
    snapshot,
    step,
)


def moved(bench, elsewhere, messages, cut, back, config):
    """Finals, and speech events from the cut on, of the call that stayed and the one that moved."""
    stayed, states = bench.session(**config), []
    ask, moment = stayed.session.snapshot, []

    def snapshot_later(callback):  # by the session itself too, after a discard
        moment[:] = number, len(stayed.events)
        ask(callback)

    stayed.session.snapshot = snapshot_later
    for number, message in enumerate([*messages, ()]):
        if number == cut:
            stayed.session.snapshot(states.append)
        if message:
            # Only now is the message processed, should the session request one meanwhile.
            number += 1  # noqa: PLW2901
            send(stayed, message)
        if number % 3 == 0:
            bench.pump()
    bench.wait(lambda: states)
    cut, events_before = moment
    bench.finish(stayed)
    (state,) = states
    other = elsewhere.session(**config)
    other.session.restore(state)
    assert other.session.audio_seconds == state.position / config["sample_rate"]
    for message in resumed(messages, cut, back, state):
        send(other, message)
        elsewhere.pump()
    elsewhere.finish(other)
    return stayed.finals, stayed.events[events_before:], other.finals, other.events


@settings(max_examples=120)
@given(
    form=st.sampled_from(FORMATS),
    steps=st.lists(step, min_size=1, max_size=25),
    where=st.floats(0, 1),
    back=st.integers(0, 4),
)
@example(form=FORMATS[0], steps=[("audio", 2 * RATE)], where=1.0, back=1)
@example(form=FORMATS[0], steps=[("audio", 2 * RATE)], where=0.0, back=0)
@example(
    form=FORMATS[7],
    steps=[("audio", 9001), ("hold", (0,)), ("discard", ()), ("audio", 1), ("resume", ())] * 4,
    where=0.5,
    back=2,
)
def test_moved_call_ends_as_if_it_had_stayed(bench, elsewhere, data, form, steps, where, back):
    sent = messages([*steps, ("audio", 2 * RATE)], data(form), form)
    cut = round(where * len(sent))
    finals, events, moved_finals, moved_events = moved(
        bench, elsewhere, sent, cut, back, config_of(form)
    )
    event(f"speech behind the posteriors: {any(f.posteriors for f in finals.values())}")
    assert moved_finals == finals
    assert moved_events == events


@settings(max_examples=4)
@given(
    form=st.sampled_from(FORMATS),
    sizes=st.lists(st.integers(200, 4000), min_size=5, max_size=20),
    where=st.floats(0.2, 0.8),
)
def test_real_student(real_bench, make_bench, student, data, form, sizes, where):
    sent = messages([("audio", size) for size in (*sizes, 2 * RATE, 2 * RATE)], data(form), form)
    cut = round(where * len(sent))
    finals, events, moved_finals, moved_events = moved(
        real_bench, make_bench(student), sent, cut, 1, config_of(form)
    )
    assert moved_events == events
    for channel, final in finals.items():
        other = moved_finals[channel]
        assert other._replace(posteriors=None) == final._replace(posteriors=None)
        assert final.posteriors is not None
        for one, two in zip(final.posteriors, other.posteriors, strict=True):
            np.testing.assert_allclose(one, two, rtol=0, atol=1e-5)


def test_call_moves_from_server_to_server(bench, elsewhere, audio, voices):
    """A snapshot at every message, each time on another engine."""
    signal = voices.caller[7 * RATE : 10 * RATE]
    chunks = audio.cut(audio.wire([signal], Encoding.MULAW), [700])
    stayed = bench.play(chunks)
    here, there = bench, elsewhere
    recorder = here.session()
    for sequence, part in enumerate(chunks, start=1):
        recorder.session.audio(sequence, part)
        state = snapshot(here, recorder)
        recorder.session.close()
        here, there = there, here
        recorder = here.session()
        recorder.session.restore(state)
    assert here.finish(recorder).finals == stayed.finals
    assert stayed.finals[0].posteriors is not None


def test_updates_stay_on_their_grid(make_bench, audio, voices):
    """What comes after a snapshot comes when, and as, it would have come without."""
    here, there = make_bench(), make_bench()
    signal = voices.caller[7 * RATE : 10 * RATE]
    chunks = audio.cut(audio.wire([signal], Encoding.MULAW), [RATE // 10])

    def play(bench, recorder, first, last):
        for sequence in range(first, last):
            recorder.session.audio(sequence, chunks[sequence])
            bench.settle(recorder)

    stayed = here.session(update_seconds=0.7)
    play(here, stayed, 0, 10)  # the second is due at 1.4 s, not 0.7 s after the snapshot
    state = snapshot(here, stayed)
    before = len(stayed.updates)
    play(here, stayed, 10, 30)
    moved = there.session(update_seconds=0.7)
    moved.session.restore(state)
    play(there, moved, 10, 30)
    assert there.finish(moved).updates == here.finish(stayed).updates[before:]
    assert [round(u.audio_seconds, 6) for u in moved.updates] == [1.4, 2.1, 2.8, 3.0]
