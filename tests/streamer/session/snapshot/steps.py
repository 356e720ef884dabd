"""Steps of a call, its messages, and its snapshots."""

import dataclasses

import numpy as np
from hypothesis import strategies as st

from tests.streamer.session.formats import configured

RATE = 8000
CONTROLS = ("hold", "resume", "discard")

chunk = st.one_of(st.integers(1, 30), st.integers(1, 1500), st.integers(1, 2 * RATE))
step = st.one_of(
    st.tuples(st.just("audio"), chunk),
    st.tuples(st.just("audio"), chunk),
    st.tuples(st.just("again"), st.just(0)),  # a duplicate
    st.tuples(st.just("lost"), st.integers(1, 3)),  # messages that never arrive
    st.tuples(st.just("jump"), st.integers(1, RATE)),  # a start_sample that leaves a hole
    st.tuples(st.sampled_from(CONTROLS), st.sampled_from([(), (0,), (1,), (0, 1)])),
)


def messages(steps, data, form):
    """Steps to the messages of a call: (sequence, bytes, start_sample) or (control, channels)."""
    encoding, _, channels = form
    frame = encoding.width * channels
    made, sequence, at, position = [], 10, 0, 0
    for kind, value in steps:
        if kind in CONTROLS:
            made.append((kind, [c for c in value if c < channels]))
        elif kind == "again":
            made += [m for m in made if m[0] not in CONTROLS][-1:]
        elif kind == "lost":
            sequence += value
        else:
            size = min(value if kind == "audio" else 500, (len(data) - at) // frame)
            if not size:
                continue
            missing = made_up = 0
            if kind == "jump":
                missing = value
            audio = [m for m in made if m[0] not in CONTROLS]
            if audio and kind == "audio":
                made_up = (sequence - audio[-1][0]) * size  # as long as the one after the gap
            position += made_up + missing
            sequence += 1
            start = position if kind == "jump" else None
            made.append((sequence, data[at : at + size * frame], start))
            at += size * frame
            position += size
    return made


def send(recorder, message):
    first, *rest = message
    if first == "discard":
        recorder.session.discard(*rest)
    elif first in {"hold", "resume"}:
        recorder.session.hold(*rest, held=first == "hold")
    else:
        recorder.session.audio(first, *rest)


def resumed(messages, cut, back, state):
    """What a gateway sends after the message at ``cut``, having kept ``back`` more than it must.

    It does not know which of the controls behind the snapshot's audio came in: it repeats all.
    """
    numbers = [n for n, m in enumerate(messages[:cut]) if m[0] not in CONTROLS]
    last = numbers[-1] + 1 if numbers else 0
    assert not numbers or messages[last - 1][0] == state.sequence
    old = [m for m in messages[:last] if m[0] not in CONTROLS]
    return old[len(old) - min(back, len(old)) :] + messages[last:]


def config_of(form):
    return configured(*form, update_seconds=0.2, speech_events=True)


def snapshot(bench, recorder):
    states = []
    recorder.session.snapshot(states.append)
    bench.wait(lambda: states or recorder.errors)
    return states[0]


def plain(value):
    """A state without arrays, to compare."""
    if dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        return {field.name: plain(getattr(value, field.name)) for field in fields}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.tolist()
    return [plain(item) for item in value] if isinstance(value, tuple | list) else value
