"""A call is visited when there is something to find, and nobody can tell from what it says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.audio.codec import Encoding
from streamer.session.channel import Channel

RATE = 8000
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("audio"), st.integers(1, 3000)),
        st.tuples(st.just("lost"), st.integers(1, 3000)),
        st.tuples(st.sampled_from(["hold", "resume", "discard", "snapshot"]), st.just(0)),
    ),
    max_size=25,
)


@pytest.fixture
def visits(monkeypatch):
    """Counts how often a channel hears something."""
    lengths = []
    heard = Channel.hear

    def hear(channel, samples):
        lengths.append(len(samples))
        heard(channel, samples)

    monkeypatch.setattr(Channel, "hear", hear)
    return lengths


def play(bench, speech, actions, **config):
    """Actions on a call of this audio; what it says, and the states that it would move with."""
    recorder = bench.session(**config)
    session, states, at, lost = recorder.session, [], 0, 0
    for sequence, (action, samples) in enumerate(actions, start=1):
        if action == "lost":
            lost += samples
        elif action == "audio":
            start = at % (len(speech) - samples)
            session.audio(sequence, speech[start : start + samples], at + lost)
            at += samples
        elif action == "snapshot":
            session.snapshot(states.append)
            bench.wait(lambda: not session.snapshot_pending)
        elif action == "discard":
            session.discard([])
        else:
            session.hold([], held=action == "hold")
    bench.finish(recorder)
    return recorder, states


def told(recorder):
    """Of a final update and of running ones; those that a busy engine left out are missing."""
    return {
        (u.final, u.audio_seconds): (u.sequence, u.speech_seconds, u.posteriors)
        for u in recorder.updates
    }


def remembered(state):
    channel = state.channels[0]
    samples = (channel.gate.rest.tolist(), channel.gate.recent.tolist(), channel.block.tolist())
    heard = (
        channel.gate.position,
        channel.speech,
        channel.posteriors,
        channel.memory.state.tolist(),
    )
    return (state.heard, state.next_update, *samples, *heard)


@given(actions=ACTIONS)
def test_gathering_changes_nothing_that_is_told(bench, speech, actions):
    config = {"update_seconds": 0.1}
    gathered, states = play(bench, speech, actions, **config)
    at_once, expected = play(bench, speech, actions, speech_events=True, **config)
    got, wanted = told(gathered), told(at_once)
    assert [final for final, _ in got].count(True) == 1
    for key in {*got, *wanted}:
        if key[0] or (key in got and key in wanted):
            assert got[key] == wanted[key]
    assert [remembered(state) for state in states] == [remembered(state) for state in expected]


@pytest.mark.parametrize("rate", [8000, 16000])
@pytest.mark.parametrize("milliseconds", [20, 30, 100, 200])
def test_running_speech_is_heard_when_a_block_may_be_full(bench, audio, visits, rate, milliseconds):
    """Updates ten times a second call for no visit of their own."""
    noise = np.random.default_rng(1).integers(-9000, 9000, 10 * RATE).astype(np.int16)
    data = audio.wire([noise], Encoding.LINEAR16, rate)
    recorder = bench.session(encoding=Encoding.LINEAR16, sample_rate=rate, update_seconds=0.1)
    for sequence, part in enumerate(audio.cut(data, [rate * milliseconds // 1000], 2), start=1):
        recorder.session.audio(sequence, part)
    blocks = recorder.session._channels[0].submitted
    assert blocks == 10 * RATE // 1280
    most = 10_000 // milliseconds  # a message is heard at once
    assert min(blocks, most) <= len(visits) <= min(blocks + 2, most)
    bench.finish(recorder)
    assert sum(visits) == 10 * RATE


@pytest.mark.parametrize(
    ("update_seconds", "visited"), [(60.0, [1600] * 25), (0.5, [1600, 1600, 800] * 10)]
)
def test_silence_is_heard_every_block_and_for_each_update(bench, visits, update_seconds, visited):
    recorder = bench.session(update_seconds=update_seconds)
    for sequence in range(1, 51):
        recorder.session.audio(sequence, bytes([0xFF]) * 800)
    assert visits == visited
    bench.finish(recorder)


def test_who_is_on_hold_is_not_visited_for_an_update(bench, visits):
    recorder = bench.session(update_seconds=0.1)
    recorder.session.hold([], held=True)
    for sequence in range(1, 51):
        recorder.session.audio(sequence, bytes([0xFF]) * 800)
    assert visits == [1600] * 25
    recorder.session.hold([], held=False)
    recorder.session.audio(51, bytes([0xFF]) * 800)
    assert visits[25:] == [800]
    bench.finish(recorder)


def test_speech_events_are_told_with_the_message_that_brings_them(bench, speech, visits):
    recorder = bench.session(speech_events=True)
    for sequence in range(1, 21):
        recorder.session.audio(sequence, speech[160 * (sequence - 1) : 160 * sequence])
        assert sum(visits) == 160 * sequence
    bench.finish(recorder)
    assert recorder.events
