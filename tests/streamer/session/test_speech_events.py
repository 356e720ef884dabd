"""Start and end of speech."""

import numpy as np
import pytest

from streamer.audio.codec import Encoding
from tests.streamer.session.formats import configured

RATE = 8000


def test_speech_events_match_the_turns(bench, audio, voices):
    quiet = np.zeros(RATE, np.int16)
    turn = voices.caller[5 * RATE : 7 * RATE]
    data = audio.wire([np.concatenate([quiet, turn, quiet, turn, quiet])], Encoding.MULAW)
    events = bench.play(audio.cut(data, [777]), speech_events=True).events
    assert [(channel, started) for channel, started, _ in events] == [(0, True), (0, False)] * 2
    times = [seconds for *_, seconds in events]
    for seconds, near in zip(times, (1.0, 3.0, 4.0, 6.0), strict=True):
        assert near - 0.07 <= seconds <= near + 0.3


def test_speech_events_are_optional(bench, speech):
    assert bench.play([speech], speech_events=False).events == []


@pytest.mark.parametrize("rate", [8000, 16000])
def test_event_times_are_in_seconds_of_the_call(bench, audio, voices, rate):
    side = np.concatenate([np.zeros(RATE, np.int16), voices.caller[5 * RATE : 6 * RATE]])
    data = audio.wire([side], Encoding.LINEAR16, rate)
    recorder = bench.session(**configured(Encoding.LINEAR16, rate, 1, speech_events=True))
    recorder.session.audio(1, data)
    recorder.session.audio(5, data, start_sample=10 * rate)
    starts = [s for _, started, s in bench.finish(recorder).events if started]
    assert starts[0] == pytest.approx(1.0, abs=0.3)
    assert any(s == pytest.approx(10 + starts[0], abs=0.1) for s in starts)


@pytest.mark.parametrize("action", ["discard", "hold"])
def test_events_keep_time_after_control(bench, audio, voices, action):
    recorder = bench.session(speech_events=True)
    quiet = audio.wire([np.zeros(479, np.int16)], Encoding.MULAW)  # 1 short of two gate frames
    for sequence in range(1, 101):
        recorder.session.audio(sequence, quiet)
        if action == "discard":
            recorder.session.discard([])
        else:
            recorder.session.hold([], held=sequence % 2 == 1)
    side = np.concatenate([np.zeros(RATE, np.int16), voices.caller[5 * RATE : 7 * RATE]])
    recorder.session.audio(101, audio.wire([side], Encoding.MULAW))
    bench.finish(recorder)
    assert recorder.session.audio_seconds == 47900 / RATE + 3
    assert recorder.events[0][2] == pytest.approx(47900 / RATE + 1, abs=0.3)
    assert recorder.events[-1][1:] == (False, pytest.approx(47900 / RATE + 3))


def test_events_alternate_through_discard_and_hold(call, bench, speech):
    call.session.audio(1, speech)
    call.session.discard([])
    call.session.audio(2, speech)
    call.session.hold([], held=True)
    call.session.hold([], held=False)
    call.session.audio(3, speech)
    bench.finish(call)
    assert [started for _, started, _ in call.events] == [True, False] * 3
