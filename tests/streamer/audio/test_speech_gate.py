import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.audio.speech_gate import FRAME, GateSettings, SpeechGate, speech_of

RATE = 8000


def run(samples, sizes=(), settings=None):
    """Everything a gate gives for samples cut into these sizes and a rest, flushed."""
    gate, speech, events = SpeechGate(settings), b"", []
    for part in np.split(samples, np.minimum(np.cumsum(sizes, dtype=int), len(samples))):
        s, e = gate.push(part)
        speech += s
        events += e
    s, e = gate.flush()
    return np.frombuffer(speech + s, np.int16), [*events, *e]


@pytest.fixture(scope="module")
def dialogue_side(voices):
    """9 s with three turns of speech, each between pauses."""
    return voices.caller[9 * RATE : 28 * RATE]


def burst(voices, pause=1.0, seconds=1.5):
    """Silence, speech, silence."""
    quiet = np.zeros(round(pause * RATE), np.int16)
    return np.concatenate([quiet, voices.caller[5 * RATE : round((5 + seconds) * RATE)], quiet])


@given(sizes=st.lists(st.one_of(st.integers(1, 400), st.integers(1, 40000)), max_size=60))
def test_any_chunking_gives_the_same_speech_and_events(dialogue_side, sizes):
    speech, events = run(dialogue_side, sizes)
    expected, expected_events = run(dialogue_side)
    np.testing.assert_array_equal(speech, expected)
    assert events == expected_events
    assert len(events) >= 6


@given(
    pieces=st.lists(
        st.tuples(st.sampled_from(["speech", "silence", "noise"]), st.integers(1, 9000)),
        min_size=1,
        max_size=8,
    ),
    sizes=st.lists(st.integers(1, 20000), max_size=20),
)
def test_events_alternate_and_bound_the_speech(voices, pieces, sizes):
    rng = np.random.default_rng(len(pieces))
    sound = {
        "speech": lambda n: voices.caller[5 * RATE : 5 * RATE + n],
        "silence": lambda n: np.zeros(n, np.int16),
        "noise": lambda n: (300 * rng.standard_normal(n)).astype(np.int16),
    }
    samples = np.concatenate([sound[kind](length) for kind, length in pieces])
    speech, events = run(samples, sizes)
    positions = [event.position for event in events]
    assert [event.started for event in events] == [True, False] * (len(events) // 2)
    assert positions == sorted(positions)
    assert all(0 <= position <= len(samples) for position in positions)
    settings = GateSettings()
    between = sum(end - start for start, end in zip(positions[::2], positions[1::2], strict=True))
    preroll = settings.preroll * FRAME * (len(events) // 2)
    assert between <= len(speech) <= min(between + preroll, len(samples))


@pytest.mark.parametrize("preroll", [0, 1, GateSettings().preroll, 5])
def test_speech_has_preroll_and_hangover(voices, preroll):
    """Between silences the gate gives one piece: from before the onset to after the end."""
    samples, settings = burst(voices), GateSettings(preroll=preroll)
    later = GateSettings(hangover=settings.hangover + 6)
    speech, events = run(samples, settings=settings)
    assert [event.started for event in events] == [True, False]
    start, end = (event.position for event in events)
    first = start - settings.preroll * FRAME
    np.testing.assert_array_equal(speech, samples[first:end])
    # the hangover reaches into the silence, the pre-roll before the first sound
    last_sound = RATE + round(1.5 * RATE)
    assert RATE - 2 * FRAME <= start <= RATE + 0.3 * RATE
    assert not samples[last_sound:end].any()
    assert end - last_sound >= (settings.hangover - 2) * FRAME
    assert run(samples, settings=later)[1][-1].position == end + 6 * FRAME


def test_onset_of_more_frames_opens_no_earlier(voices):
    """A single voiced frame opens nothing if more in a row are required."""
    samples = burst(voices)
    blip = samples.copy()
    start = run(samples)[1][0].position
    blip[start + 2 * FRAME :] = 0
    assert run(blip, settings=GateSettings(onset=60))[1] == []


def test_nothing_is_kept_beyond_what_it_remembers():
    """Of a long message a gate needs less than a frame and those before a possible onset."""
    gate = SpeechGate()
    gate.push(np.zeros(10 * FRAME + 7, np.int16))
    gate.push(np.zeros(10 * FRAME + 7, np.int16))
    assert gate.waiting == 14
    assert len(gate._rest) == 2 * 14
    assert [len(kept) for kept in gate._recent] == 5 * [2 * FRAME]


@pytest.mark.parametrize("amplitude", [0, 8])
def test_silence_and_line_noise_give_nothing(amplitude):
    rng = np.random.default_rng(0)
    samples = rng.integers(-amplitude, amplitude + 1, 10 * RATE).astype(np.int16)
    speech, events = run(samples[2 * RATE :], [777] * 50)
    assert (speech.size, events) == (0, [])


def test_position_counts_what_was_skipped(voices):
    samples = burst(voices)
    events = run(samples)[1]
    gate = SpeechGate()
    gate.skip(12345)
    later = gate.push(samples)[1] + gate.flush()[1]
    assert [e.position - 12345 for e in later] == [e.position for e in events]


def test_flush_returns_the_rest_and_resets(voices):
    samples = voices.caller[5 * RATE : 6 * RATE + 100]  # 100 samples are no whole frame
    gate = SpeechGate()
    speech, events = gate.push(samples)
    assert gate.speaking
    rest, ends = gate.flush()
    assert rest == samples[len(samples) // FRAME * FRAME :].tobytes()
    assert ends == [(False, len(samples))]
    assert not gate.speaking
    assert gate.flush() == (b"", [])
    assert gate.position == len(samples)
    assert len(events) == 1
    assert speech


def test_speech_of_is_the_gate_over_a_whole_utterance(dialogue_side):
    np.testing.assert_array_equal(speech_of(dialogue_side), run(dialogue_side)[0])
    assert speech_of(np.zeros(8000, np.int16)).size == 0
    assert speech_of(np.empty(0, np.int16)).dtype == np.int16
