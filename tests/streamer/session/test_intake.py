"""A call is visited once for a block's time of audio, and nobody can tell from what it says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.channel import Channel
from streamer.codec import Encoding

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
            bench.wait(lambda: not session.snapshot_under_way)
        elif action == "discard":
            session.discard([])
        else:
            session.hold([], held=action == "hold")
    bench.finish(recorder)
    return recorder, states


def told(recorder):
    return [(u.audio_seconds, u.speech_seconds, u.posteriors) for u in recorder.updates if u.final]


def remembered(state):
    channel = state.channels[0]
    samples = (channel.gate.rest.tolist(), channel.gate.recent.tolist(), channel.block.tolist())
    heard = (channel.gate.position, channel.speech, channel.posteriors, channel.vector.tolist())
    return (state.heard, state.next_update, *samples, *heard)


@given(actions=ACTIONS)
def test_gathering_changes_nothing_that_is_told(bench, speech, actions):
    gathered, states = play(bench, speech, actions)
    at_once, expected = play(bench, speech, actions, speech_events=True)
    assert told(gathered) == told(at_once)
    assert [remembered(state) for state in states] == [remembered(state) for state in expected]


@pytest.mark.parametrize("rate", [8000, 16000])
def test_small_messages_are_heard_a_block_at_a_time(bench, audio, voices, visits, rate):
    data = audio.wire([voices.caller[5 * RATE : 7 * RATE]], Encoding.LINEAR16, rate)
    parts = audio.cut(data, [rate // 50], 2)
    bench.play(parts, encoding=Encoding.LINEAR16, sample_rate=rate, update_seconds=0.5)
    # of half a second three blocks' time, and the rest when the update is due
    assert len(visits) == 4 * 4
    assert sum(visits) == 2 * RATE
    assert max(visits) == 1280


def test_speech_events_are_told_with_the_message_that_brings_them(bench, speech, visits):
    recorder = bench.session(speech_events=True)
    for sequence in range(1, 21):
        recorder.session.audio(sequence, speech[160 * (sequence - 1) : 160 * sequence])
        assert sum(visits) == 160 * sequence
    bench.finish(recorder)
    assert recorder.events


@pytest.mark.parametrize(
    ("samples", "visited"), [(480, [960, 960]), (800, [800] * 4), (1280, [1280] * 4)]
)
def test_a_visit_brings_no_more_than_a_block(bench, speech, visits, samples, visited):
    recorder = bench.session(update_seconds=60.0)
    for sequence in range(1, 5):
        recorder.session.audio(sequence, speech[samples * (sequence - 1) : samples * sequence])
    assert visits == visited
    bench.finish(recorder)
