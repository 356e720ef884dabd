"""What may come twice to a call that goes on from a snapshot: controls, and audio."""

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
def test_repeated_controls_change_nothing(bench, data, before, controls, where, samples):
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
