"""States that no call was ever in."""

import dataclasses

import numpy as np
import pytest

from streamer.inference.metadata import Memory
from tests.streamer.session.snapshot.steps import snapshot


def broken(state, where, **changes):
    if where == "call":
        return dataclasses.replace(state, **changes)
    channel = state.channels[0]
    if where == "gate":
        changes = {"gate": dataclasses.replace(channel.gate, **changes)}
    return dataclasses.replace(state, channels={0: dataclasses.replace(channel, **changes)})


def memory(state, cached=4):
    return Memory(state.astype(np.float32), np.zeros(cached, np.uint8))


WRONG = [
    ("call", {"channels": {}}),
    ("call", {"position": -1}),
    ("call", {"lost": 10**9}),
    ("call", {"lost": -1}),
    ("call", {"duplicates": -1}),
    ("call", {"next_update": -1}),
    ("call", {"filters": ()}),
    ("call", {"filters": (np.zeros(52, np.int16),)}),
    ("call", {"filters": (np.zeros(54, np.int16),) * 2}),
    ("channel", {"block": np.zeros(1280, np.int16)}),
    ("channel", {"speech": -1}),
    ("channel", {"memory": memory(np.zeros(7))}),
    ("channel", {"memory": memory(np.full(8, np.nan))}),
    ("channel", {"memory": memory(np.full(8, np.inf))}),
    ("channel", {"memory": memory(np.zeros(8), cached=3)}),
    ("channel", {"posteriors": ([0.5, 0.5],)}),
    ("channel", {"posteriors": ([0.5, 0.5], [0.5, 0.5], [1.0])}),
    ("channel", {"posteriors": ([np.nan, 0.5], [1 / 3] * 3, [0.25] * 4)}),
    ("channel", {"posteriors": ([0.0, 0.0], [1 / 3] * 3, [0.25] * 4)}),
    ("channel", {"posteriors": ([1.5, -0.5], [1 / 3] * 3, [0.25] * 4)}),
    ("channel", {"posteriors": ([0.5, 0.5], [1 / 3] * 3, [1.0] * 4)}),
    ("gate", {"vad": b"x" * 736}),
    ("gate", {"vad": b""}),
    ("gate", {"rest": np.zeros(240, np.int16)}),
    ("gate", {"recent": np.zeros(239, np.int16)}),
    ("gate", {"recent": np.zeros(6 * 240, np.int16)}),
    ("gate", {"voiced": -1}),
    ("gate", {"unvoiced": -1}),
    ("gate", {"position": -1}),
]


@pytest.mark.parametrize(("where", "changes"), WRONG)
def test_impossible_state_is_refused(bench, speech, where, changes):
    recorder = bench.session(sample_rate=16000)
    recorder.session.audio(1, speech)
    state = snapshot(bench, recorder)
    other = bench.session(sample_rate=16000)
    with pytest.raises(ValueError, match=r"\w"):
        other.session.restore(broken(state, where, **changes))
    other.session.close()
