"""What may come twice to a call that goes on from a snapshot: controls, and audio."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.streamer.session.formats import FORMATS
from tests.streamer.session.snapshot.steps import CONTROLS, RATE, config_of, plain, send, snapshot

control = st.tuples(st.sampled_from(CONTROLS), st.sampled_from([[], [0], [1], [0, 1]]))


@settings(max_examples=60)
@given(
    before=st.lists(control, max_size=3),
    controls=st.lists(control, min_size=1, max_size=6),
    where=st.floats(0, 1),
    samples=st.integers(1, 2 * RATE),
)
def test_controls_repeated_without_audio_between_change_nothing(
    bench, data, before, controls, where, samples
):
    """Whether a snapshot has none, some or all of the controls behind its audio: repeat them."""
    form = FORMATS[1]
    states = []
    for times in ((), controls[: round(where * len(controls))], controls):
        recorder = bench.session(**config_of(form))
        for message in before:
            send(recorder, message)
        send(recorder, (1, data(form)[: 2 * samples], None))
        for message in (*times, *controls):
            send(recorder, message)
        states.append(plain(snapshot(bench, recorder)))
        recorder.session.close()
    assert states[0] == states[1] == states[2]


def test_old_audio_is_dropped_until_new_audio_comes(bench, elsewhere, speech):
    parts = [speech[n * 1000 : n * 1000 + 1000] for n in range(16)]
    recorder = bench.session()
    for sequence in range(5, 11):
        recorder.session.audio(sequence, parts[sequence])
    state = snapshot(bench, recorder)
    other = elsewhere.session()
    other.session.restore(state)
    for sequence in (3, 7, 8, 9, 10, 4, 10):
        assert other.session.audio(sequence, parts[sequence]) == 0.0
    assert other.session.audio_seconds == recorder.session.audio_seconds
    assert other.session.duplicates == 0
    other.session.audio(11, parts[11])
    assert other.session.audio(11, parts[11]) == 0.0
    assert other.session.duplicates == 1
    with pytest.raises(Exception, match=r"audio.sequence: 10 is not valid; it must rise"):
        other.session.audio(10, parts[10])
