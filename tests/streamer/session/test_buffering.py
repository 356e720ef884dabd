"""Audio is processed when a result may change, and no prediction depends on the buffering."""

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
def processed(monkeypatch):
    """Samples of each time that a channel processes audio."""
    lengths = []
    original = Channel.process

    def process(channel, samples):
        lengths.append(len(samples))
        original(channel, samples)

    monkeypatch.setattr(Channel, "process", process)
    return lengths


def play(bench, speech, actions, **config):
    """Play actions on a call of this audio; its recorder, and the states of its snapshots."""
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


def updates_of(recorder):
    """Updates by time; those that a busy engine left out are missing."""
    return {
        (u.final, u.audio_seconds): (u.sequence, u.speech_seconds, u.posteriors)
        for u in recorder.updates
    }


def values(state):
    channel = state.channels[0]
    samples = (channel.gate.rest.tolist(), channel.gate.recent.tolist(), channel.block.tolist())
    rest = (
        channel.gate.position,
        channel.speech,
        channel.posteriors,
        channel.memory.state.tolist(),
    )
    return (state.position, state.next_update, *samples, *rest)


@given(actions=ACTIONS)
def test_buffering_changes_no_update(bench, speech, actions):
    config = {"update_seconds": 0.1}
    buffered, states = play(bench, speech, actions, **config)
    at_once, expected = play(bench, speech, actions, speech_events=True, **config)
    got, reference = updates_of(buffered), updates_of(at_once)
    assert [final for final, _ in got].count(True) == 1
    for key in {*got, *reference}:
        if key[0] or (key in got and key in reference):
            assert got[key] == reference[key]
    assert [values(state) for state in states] == [values(state) for state in expected]


@pytest.mark.parametrize("rate", [8000, 16000])
@pytest.mark.parametrize("milliseconds", [20, 30, 100, 200])
def test_speech_is_processed_when_a_block_may_be_full(bench, audio, processed, rate, milliseconds):
    """Updates ten times a second need no processing of their own."""
    noise = np.random.default_rng(1).integers(-9000, 9000, 10 * RATE).astype(np.int16)
    data = audio.wire([noise], Encoding.LINEAR16, rate)
    recorder = bench.session(encoding=Encoding.LINEAR16, sample_rate=rate, update_seconds=0.1)
    for sequence, part in enumerate(audio.cut(data, [rate * milliseconds // 1000], 2), start=1):
        recorder.session.audio(sequence, part)
    blocks = recorder.session._channels[0].submitted
    assert blocks == 10 * RATE // 1280
    messages = 10_000 // milliseconds  # a message is processed whole
    assert min(blocks, messages) <= len(processed) <= min(blocks + 2, messages)
    bench.finish(recorder)
    assert sum(processed) == 10 * RATE


@pytest.mark.parametrize(
    ("update_seconds", "lengths"), [(60.0, [1600] * 25), (0.5, [1600, 1600, 800] * 10)]
)
def test_silence_is_processed_per_block_and_update(bench, processed, update_seconds, lengths):
    recorder = bench.session(update_seconds=update_seconds)
    for sequence in range(1, 51):
        recorder.session.audio(sequence, bytes([0xFF]) * 800)
    assert processed == lengths
    bench.finish(recorder)


def test_held_channel_is_not_processed_for_an_update(bench, processed):
    recorder = bench.session(update_seconds=0.1)
    recorder.session.hold([], held=True)
    for sequence in range(1, 51):
        recorder.session.audio(sequence, bytes([0xFF]) * 800)
    assert processed == [1600] * 25
    recorder.session.hold([], held=False)
    recorder.session.audio(51, bytes([0xFF]) * 800)
    assert processed[25:] == [800]
    bench.finish(recorder)


def test_speech_events_come_with_their_message(bench, speech, processed):
    recorder = bench.session(speech_events=True)
    for sequence in range(1, 21):
        recorder.session.audio(sequence, speech[160 * (sequence - 1) : 160 * sequence])
        assert sum(processed) == 160 * sequence
    bench.finish(recorder)
    assert recorder.events
