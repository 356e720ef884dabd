"""A call that goes on elsewhere from a snapshot is the call that never moved, bit for bit."""

import dataclasses
import functools

import numpy as np
import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from streamer.codec import Encoding
from streamer.errors import StudentFailed
from streamer.metadata import Memory

RATE = 8000
FORMATS = [(e, rate, channels) for e in Encoding for rate in (8000, 16000) for channels in (1, 2)]
CONTROLS = ("hold", "resume", "discard")
SECONDS = 3


@pytest.fixture(scope="module")
def elsewhere(make_bench):
    """The engine of another server."""
    return make_bench()


@pytest.fixture(scope="module")
def data(audio, voices):
    """Function of the format: the bytes of 3 s of two people who speak and pause."""
    signals = [side[7 * RATE : (7 + SECONDS) * RATE] for side in (voices.caller, voices.agent)]
    return functools.cache(lambda form: audio.wire(signals[: form[2]], form[0], form[1]))


# --- what a gateway does in a call ---

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
    made, sequence, at, heard = [], 10, 0, 0
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
            heard += made_up + missing
            sequence += 1
            start = heard if kind == "jump" else None
            made.append((sequence, data[at : at + size * frame], start))
            at += size * frame
            heard += size
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
    encoding, rate, channels = form
    return {
        "encoding": encoding,
        "sample_rate": rate,
        "ignored": (False,) * channels,
        "update_seconds": 0.2,
        "speech_events": True,
    }


def snapshot(bench, recorder):
    told = []
    recorder.session.snapshot(told.append)
    bench.wait(lambda: told or recorder.errors)
    return told[0]


def moved(bench, elsewhere, messages, cut, back, config):
    """Finals, and speech events from the cut on, of the call that stayed and the one that moved."""
    stayed, told = bench.session(**config), []
    ask, moment = stayed.session.snapshot, []

    def asked(tell):  # by the session itself too, after a discard
        moment[:] = number, len(stayed.events)
        ask(tell)

    stayed.session.snapshot = asked
    for number, message in enumerate([*messages, ()]):
        if number == cut:
            stayed.session.snapshot(told.append)
        if message:
            # Only now has the session done with it, should it ask in the midst of it.
            number += 1  # noqa: PLW2901
            send(stayed, message)
        if number % 3 == 0:
            bench.pump()
    bench.wait(lambda: told)
    cut, heard = moment
    bench.finish(stayed)
    (state,) = told
    other = elsewhere.session(**config)
    other.session.restore(state)
    assert other.session.audio_seconds == state.heard / config["sample_rate"]
    for message in resumed(messages, cut, back, state):
        send(other, message)
        elsewhere.pump()
    elsewhere.finish(other)
    return stayed.finals, stayed.events[heard:], other.finals, other.events


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
    told = len(stayed.updates)
    play(here, stayed, 10, 30)
    moved = there.session(update_seconds=0.7)
    moved.session.restore(state)
    play(there, moved, 10, 30)
    assert there.finish(moved).updates == here.finish(stayed).updates[told:]
    assert [round(u.audio_seconds, 6) for u in moved.updates] == [1.4, 2.1, 2.8, 3.0]


# --- which moment it is of ---


@pytest.fixture
def speech(audio, voices):
    """2 s of a speaking caller, mu-law."""
    return audio.wire([voices.caller[5 * RATE : 7 * RATE]], Encoding.MULAW)


def test_snapshot_is_of_the_moment_it_was_asked_for(make_bench, make_student, speech, elsewhere):
    """Blocks behind it are done in the same run of the engine, and are not in it."""
    student = make_student()
    bench = make_bench(student)
    before = elsewhere.session()
    before.session.audio(1, speech[:RATE])
    wanted = snapshot(elsewhere, before)
    student.gate.clear()
    recorder, told = bench.session(), []
    recorder.session.audio(1, speech[:RATE])
    assert student.stepping.wait(10)
    recorder.session.snapshot(told.append)
    recorder.session.audio(2, speech[RATE:])
    bench.pump()
    assert told == [], "the student has not heard it yet"
    student.gate.set()
    bench.settle(recorder)
    (state,) = told
    assert plain(state) == plain(wanted)


def test_updates_for_what_is_in_a_snapshot_come_before_it(make_bench, speech):
    bench = make_bench()
    recorder, order = bench.session(update_seconds=0.1), []
    recorder.updated = lambda update: order.append(update.sequence)
    recorder.session.audio(1, speech)
    recorder.session.snapshot(order.append)
    bench.settle(recorder)
    bench.wait(lambda: len(order) == 2)
    assert order[0] == 1
    assert order[1].sequence == 1


def test_discard_on_the_way_makes_it_one_of_after_the_discard(make_bench, make_student, speech):
    student = make_student()
    bench = make_bench(student)
    student.gate.clear()
    recorder, told = bench.session(ignored=(False, False)), []
    recorder.session.audio(1, speech)
    assert student.stepping.wait(10)
    recorder.session.snapshot(told.append)
    recorder.session.discard([0])
    student.gate.set()
    bench.wait(lambda: told)
    bench.quiet()
    (state,) = told
    assert state.channels[0].speech == 0
    assert not state.channels[0].memory.state.any()
    assert state.channels[1].speech > 0


def test_newer_snapshot_replaces_one_on_its_way(make_bench, make_student, speech):
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
def test_no_snapshot_of_a_call_that_is_over(bench, speech, end):
    recorder, told = bench.session(), []
    recorder.session.audio(1, speech)
    getattr(recorder.session, end)()
    recorder.session.snapshot(told.append)
    bench.quiet()
    assert told == []


def test_no_snapshot_behind_a_failure(make_bench, make_student):
    student = make_student()
    bench = make_bench(student)
    recorder, told = bench.session(encoding=Encoding.LINEAR16), []
    noise = np.random.default_rng(1).integers(-9000, 9000, RATE).astype("<i2")
    student.step = lambda *_: (_ for _ in ()).throw(ArithmeticError("marker"))
    recorder.session.audio(1, noise.tobytes())
    recorder.session.snapshot(told.append)
    bench.wait(lambda: recorder.errors)
    bench.quiet()
    assert told == []
    assert isinstance(recorder.errors[0], StudentFailed)


def test_snapshot_is_not_changed_by_what_comes_after(bench, speech):
    recorder = bench.session(sample_rate=16000)
    recorder.session.audio(1, speech[:RATE])
    state = snapshot(bench, recorder)
    before = plain(state)
    recorder.session.audio(2, speech[RATE:])
    bench.settle(recorder)
    recorder.session.discard([])
    assert plain(state) == before


# --- controls may be repeated ---


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


# --- audio that comes again ---


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


# --- states that no call was ever in ---


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
    ("call", {"heard": -1}),
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
