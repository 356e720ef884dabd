"""The service over real gRPC: bad input costs only the call that sent it."""

import asyncio
import contextlib
import itertools
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration

from streamer.admission import Policy
from streamer.codec import Encoding, encode
from streamer.engine import Engine
from streamer.local import local_server
from streamer.models import Models, ServedModel
from streamer.operation.metrics import Metrics
from streamer.rpc import voicecohort_pb2 as pb
from streamer.rpc import voicecohort_pb2_grpc as pb_grpc
from streamer.service import ClassifierService

RATE = 8000
TASKS = ("gender", "age_group", "age_band")
Code = grpc.StatusCode
OK = (Code.OK, "")
_numbers = itertools.count(1)


def seconds(duration):
    return duration.ToTimedelta().total_seconds()


def unique():
    """A call id to find again in the log."""
    return f"call-{next(_numbers)}"


@pytest.fixture(scope="module")
def speech(voices):
    """2 s of a speaking caller, mu-law."""
    return encode(voices.caller[5 * RATE : 7 * RATE], Encoding.MULAW)


@pytest.fixture(scope="module")
def impatient():
    """A server that waits 1.5 s for a message, the first included."""
    limits = ("--idle-timeout", "1.5", "--config-timeout", "1.5")
    with local_server(*limits, "--drain-seconds", "1") as server:
        yield server


# --- a good call ---


def test_good_call(line, request_of, student, audio, voices):
    samples = voices.caller[4 * RATE : 9 * RATE]
    data = encode(samples, Encoding.MULAW)
    call_id = unique()
    outcome = line.run(
        request_of.config(call_id=call_id),
        *(request_of.audio(n, c) for n, c in enumerate(audio.cut(data, [800]), start=10)),
    )
    assert (outcome.code, outcome.details) == OK
    assert [r.WhichOneof("message") for r in outcome.responses[:1]] == ["started"]
    (started,) = outcome.of("started")
    assert started.call_id == call_id
    assert started.model.model_id == student.metadata.model_id
    assert started.limits.max_chunk == Duration(seconds=10)
    assert started.limits.idle_timeout == Duration(seconds=300)
    assert not started.limits.checkpoints
    assert started.update_interval == Duration(nanos=500_000_000)
    final = outcome.finals[0]
    assert (final.channel, final.sequence, seconds(final.audio_time)) == (0, 59, 5.0)
    assert seconds(final.lost_time) == 0.0
    posteriors, heard = audio.direct(student, samples)
    assert seconds(final.speech_time) == heard / RATE > 2
    for task, wanted in zip(TASKS, posteriors, strict=True):
        got = getattr(final, task).posterior
        assert sum(got) == pytest.approx(1.0, abs=1e-5)
        curve = student.metadata.calibration[task]
        if set(curve.temperature) == {1.0}:  # a trained student brings its own temperatures
            np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-4)
        assert int(np.argmax(got)) == int(np.argmax(wanted))
        assert getattr(final, task).confidence == pytest.approx(max(got))
    # on the way: half-second grid, acknowledging all that was sent, nothing after the final
    running = outcome.predictions[:-1]
    assert all(seconds(p.audio_time) % 0.5 == 0 for p in running)
    assert all(p.sequence == 9 + round(seconds(p.audio_time) / 0.1) for p in running)
    times = [seconds(p.audio_time) for p in running]
    assert times == sorted(set(times))


def test_every_interval_has_its_prediction_when_nothing_is_late(line, request_of, speech, audio):
    """Sent one interval at a time, each is answered on the grid, to the last chunk's number."""
    call = line.open(request_of.config(update_interval=Duration(nanos=200_000_000)))
    assert call.read().started.update_interval == Duration(nanos=200_000_000)
    chunks = audio.cut(speech, [800])
    for number in range(0, len(chunks), 2):
        call.send(*(request_of.audio(n + 1, chunks[n]) for n in (number, number + 1)))
        prediction = call.read().prediction
        assert prediction.sequence == number + 2
        assert seconds(prediction.audio_time) == pytest.approx((number + 2) * 0.1)
        assert not prediction.final
    call.half_close()
    (final,) = call.outcome().predictions
    assert final.final
    assert (final.sequence, seconds(final.audio_time)) == (20, 2.0)


@pytest.mark.parametrize("channels", [0, 1, 2])
def test_zero_audio_is_one_uniform_final_per_channel(line, request_of, channels):
    outcome = line.run(request_of.config(channels=[pb.ChannelConfig()] * channels))
    assert (outcome.code, outcome.details) == OK
    finals = outcome.predictions
    assert [p.channel for p in finals] == list(range(max(1, channels)))
    for prediction in finals:
        assert prediction.final
        assert (prediction.sequence, seconds(prediction.audio_time)) == (0, 0.0)
        for name in TASKS:
            task = getattr(prediction, name)
            classes = len(task.posterior)
            assert list(task.posterior) == pytest.approx([1 / classes] * classes)
            assert (task.label, task.undecided) == ("", pb.UNDECIDED_REASON_NO_SPEECH)


def test_ignored_channel_has_no_prediction(line, request_of, demo_call, voices):
    agent = line.run(
        request_of.config(),
        request_of.audio(1, encode(voices.agent[: 5 * RATE], Encoding.MULAW)),
    )
    outcome = line.run(
        request_of.config(
            channels=[pb.ChannelConfig(ignored=True), pb.ChannelConfig()], speech_events=True
        ),
        request_of.audio(1, demo_call.data[: 2 * 5 * RATE]),
    )
    assert (outcome.code, outcome.details) == OK
    assert {p.channel for p in outcome.predictions} == {1}
    assert {e.channel for e in outcome.of("speech")} == {1}
    one, other = outcome.finals[1], agent.finals[0]
    assert one.speech_time == other.speech_time
    for name in TASKS:
        np.testing.assert_allclose(
            getattr(one, name).posterior, getattr(other, name).posterior, atol=1e-5
        )


def test_speech_events_over_the_wire(line, request_of, demo_call, audio):
    outcome = line.run(
        request_of.config(channels=[pb.ChannelConfig()] * 2, speech_events=True),
        *(
            request_of.audio(n, c)
            for n, c in enumerate(audio.cut(demo_call.data, [8000], 2), start=1)
        ),
    )
    events = outcome.of("speech")
    for channel in (0, 1):
        mine = [(e.started, seconds(e.audio_time)) for e in events if e.channel == channel]
        assert [started for started, _ in mine] == [True, False] * (len(mine) // 2)
        assert [t for _, t in mine] == sorted(t for _, t in mine)
        assert len(mine) >= 8  # four turns
    silent = line.run(
        request_of.config(channels=[pb.ChannelConfig()] * 2),
        request_of.audio(1, demo_call.data[: 2 * 5 * RATE]),
    )
    assert silent.of("speech") == []


def test_min_speech_can_only_raise(line, request_of, speech, student, assert_same_prediction):
    own = student.metadata.decision["gender"].min_speech_seconds
    lower = line.run(request_of.config(min_speech=Duration()), request_of.audio(1, speech))
    default = line.run(request_of.config(), request_of.audio(1, speech))
    higher = line.run(
        request_of.config(min_speech=Duration(seconds=30)), request_of.audio(1, speech)
    )
    for outcome, least in ((lower, own), (default, own), (higher, 30.0)):
        (started,) = outcome.of("started")
        assert seconds(started.gender.min_speech) == pytest.approx(least)
    assert_same_prediction(lower.finals[0], default.finals[0])
    for name in TASKS:
        task = getattr(higher.finals[0], name)
        assert (task.label, task.undecided) == ("", pb.UNDECIDED_REASON_LITTLE_SPEECH)
        wanted = getattr(default.finals[0], name).posterior
        np.testing.assert_allclose(task.posterior, wanted, rtol=0, atol=1e-5)


# --- bad input: a precise status, and no effect on anyone else ---

SILENCE = b"\xff" * 800
IGNORED = pb.ChannelConfig(ignored=True)


def config(**fields):
    good = {"encoding": pb.AUDIO_ENCODING_MULAW, "sample_rate": 8000}
    return pb.StreamClassifyRequest(config=pb.StreamConfig(**(good | fields)))


def sound(sequence, data=SILENCE, start_sample=None):
    return pb.StreamClassifyRequest(
        audio=pb.Audio(sequence=sequence, data=data, start_sample=start_sample)
    )


def control(action, *channels):
    empty = {action: getattr(pb, action.capitalize())()} if action else {}
    return pb.StreamClassifyRequest(control=pb.Control(channels=channels, **empty))


INVALID, FAILED, EXHAUSTED = (
    Code.INVALID_ARGUMENT,
    Code.FAILED_PRECONDITION,
    Code.RESOURCE_EXHAUSTED,
)
LINEAR = config(encoding=pb.AUDIO_ENCODING_LINEAR16)
BAD = {
    "nothing at all": ([], FAILED, "config: the stream ended before its first message"),
    "audio before config": ([sound(1)], FAILED, "config: the first message of a stream must be"),
    "control before config": ([control("hold")], FAILED, "config: the first message of a stream"),
    "empty first message": (
        [pb.StreamClassifyRequest()],
        FAILED,
        "config: the first message of a stream must be the config",
    ),
    "second config": (
        [config(), sound(1), config()],
        FAILED,
        "config: only the first message of a stream may be a config",
    ),
    "no encoding": ([config(encoding=0)], INVALID, "config.encoding: 0 is not valid; one of AUDIO"),
    "encoding 99": ([config(encoding=99)], INVALID, "config.encoding: 99 is not valid; one of"),
    "rate 0": (
        [config(sample_rate=0)],
        INVALID,
        "config.sample_rate: 0 is not valid; 8000 or 16000 Hz",
    ),
    "rate 44100": (
        [config(sample_rate=44100)],
        INVALID,
        "config.sample_rate: 44100 is not valid; 8000 or 16000 Hz",
    ),
    "three channels": (
        [config(channels=[pb.ChannelConfig()] * 3)],
        INVALID,
        "config.channels: 3 channels is not valid; 1 or 2",
    ),
    "all ignored": (
        [config(channels=[IGNORED, IGNORED])],
        INVALID,
        "config.channels: every channel ignored is not valid; classify at least one",
    ),
    "call id not ASCII": (
        [config(call_id="Grüße")],
        INVALID,
        "config.call_id: 'Gr",
    ),
    "call id with a line break": ([config(call_id="a\nb")], INVALID, "config.call_id: 'a\\nb' is"),
    "call id too long": (
        [config(call_id="x" * 129)],
        INVALID,
        f"config.call_id: '{'x' * 32}' is not valid; at most 128 printable ASCII characters",
    ),
    "interval too short": (
        [config(update_interval=Duration(nanos=50_000_000))],
        INVALID,
        "config.update_interval: 0.05 s is not valid; 0.1 to 60 s",
    ),
    "interval too long": (
        [config(update_interval=Duration(seconds=61))],
        INVALID,
        "config.update_interval: 61 s is not valid; 0.1 to 60 s",
    ),
    "negative minimum": (
        [config(min_speech=Duration(seconds=-1))],
        INVALID,
        "config.min_speech: -1 s is not valid; 0 to 60 s",
    ),
    "checkpoints": (
        [config(checkpoint_interval=Duration(seconds=5))],
        FAILED,
        "config.checkpoint_interval: this server has no checkpoints",
    ),
    "resuming": (
        [config(resume_from=b"abc")],
        FAILED,
        "config.resume_from: this server has no checkpoints",
    ),
    "half a sample": (
        [LINEAR, sound(1, bytes(801))],
        INVALID,
        "audio.data: 801 bytes is not valid; a sample of every channel takes 2 bytes",
    ),
    "one channel too few": (
        [config(channels=[pb.ChannelConfig()] * 2), sound(1, SILENCE + b"\xff")],
        INVALID,
        "audio.data: 801 bytes is not valid; a sample of every channel takes 2 bytes",
    ),
    "empty chunk": (
        [config(), sound(1, b"")],
        INVALID,
        "audio.data: 0 bytes is not valid; send at least one sample",
    ),
    "10 MB chunk": (
        [config(), sound(1, b"\xff" * 10_000_000)],
        EXHAUSTED,
        "SERVER: Received message larger than max (10000012 vs. 1048576)",
    ),
    "10 MB as the first message": (
        [sound(1, b"\xff" * 10_000_000)],
        EXHAUSTED,
        "SERVER: Received message larger than max (10000012 vs. 1048576)",
    ),
    "11 s chunk": (
        [config(), sound(1, b"\xff" * 88_000)],
        EXHAUSTED,
        "audio.data: 11 s exceeds the limit of 10 s a message",
    ),
    "sequence going back": (
        [config(), sound(5), sound(6), sound(5)],
        INVALID,
        "audio.sequence: 5 is not valid; it must rise; the last was 6",
    ),
    "gap of years": (
        [config(), sound(1), sound(2**64 - 1)],
        INVALID,
        "audio.sequence: 18446744073709551615 is not valid; it would leave a gap of ",
    ),
    "start going back": (
        [config(), sound(1, start_sample=0), sound(2, start_sample=799)],
        INVALID,
        "audio.start_sample: 799 is not valid; the call is at sample 800",
    ),
    "start in years": (
        [config(), sound(1, start_sample=2**63)],
        INVALID,
        "audio.start_sample: 9223372036854775808 is not valid; it would leave a gap of ",
    ),
    "empty message": (
        [config(), pb.StreamClassifyRequest()],
        INVALID,
        "message: empty is not valid; send config, audio or control",
    ),
    "control without action": (
        [config(), control(None, 0)],
        INVALID,
        "control.action: empty is not valid; discard, hold, resume or finish",
    ),
    "unknown channel": (
        [config(), control("discard", 1)],
        INVALID,
        "control.channels: 1 is not valid; the call has 1 channels",
    ),
    "finish with channels": (
        [config(), control("finish", 0)],
        INVALID,
        "control.channels: [0] is not valid; finish ends the whole call",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_ends_only_its_own_call(line, neighbour, name):
    requests, code, details = BAD[name]
    with neighbour.undisturbed():
        outcome = line.run(*requests)
    assert outcome.code is code
    assert outcome.details.startswith(details)
    assert not any(p.final for p in outcome.predictions)


@pytest.mark.parametrize(
    "requests",
    [
        [b"\xff\xff\xff\xff"],
        [config().SerializeToString(), b"\x12\x05\x08"],
        [b"\x0a\x03\x0a\x01\xff"],  # a call id that is not UTF-8
    ],
    ids=["instead of the config", "instead of audio", "text that is not UTF-8"],
)
def test_bytes_that_are_no_message(line, neighbour, requests):
    """The protocol's table of errors has no UNKNOWN, and nobody needs Python's class names."""
    method = line.channel.stream_stream(
        "/voicecohort.v1.ClassifierService/StreamClassify",
        response_deserializer=pb.StreamClassifyResponse.FromString,
    )
    with neighbour.undisturbed():
        stream = method(iter(requests), timeout=30)
        with contextlib.suppress(grpc.RpcError):
            list(stream)
    assert stream.code() is INVALID, stream.details()
    assert stream.details().startswith("message: ")
    assert "<class" not in stream.details()


@pytest.mark.parametrize(
    ("requests", "status"),
    [
        ([sound(1)], "OK"),
        ([sound(1), sound(1, b"")], "INVALID_ARGUMENT"),
        ([config()], "FAILED_PRECONDITION"),
        ([sound(1, b"\xff" * 88_000)], "RESOURCE_EXHAUSTED"),
    ],
)
def test_log_says_how_a_call_ended(server, line, log_entry, requests, status):
    call_id = unique()
    outcome = line.run(config(call_id=call_id), *requests)
    assert outcome.code.name == status
    log_entry(server, "call_started", call_id=call_id)
    assert log_entry(server, "call_ended", call_id=call_id)["status"] == status


# --- loss and order ---


def test_duplicate_is_dropped(line, neighbour, request_of, speech, assert_same_prediction):
    first, second = speech[:RATE], speech[RATE:]
    with neighbour.undisturbed():
        outcome = line.run(
            config(),
            *(
                request_of.audio(n, d)
                for n, d in ((3, first), (3, first), (4, second), (4, second))
            ),
        )
    clean = line.run(config(), request_of.audio(3, first), request_of.audio(4, second))
    assert (outcome.code, clean.code) == (Code.OK, Code.OK)
    assert_same_prediction(outcome.finals[0], clean.finals[0])
    assert outcome.finals[0].sequence == clean.finals[0].sequence == 4


@pytest.mark.parametrize(
    ("messages", "lost"),
    [
        ([(1, None), (4, None)], 2.0),  # two messages of 1 s
        ([(1, 0), (4, 12_000)], 0.5),  # the media time knows better
        ([(1, 0), (4, 8_000)], 0.0),
        ([(1, 0), (2, 20_000)], 1.5),  # suppressed silence, no number missing
        ([(9, 4_000), (10, 12_000)], 0.5),  # the beginning is missing
    ],
)
def test_gap_is_accepted_and_counted(line, neighbour, speech, messages, lost):
    parts = [speech[:RATE], speech[RATE:]]
    with neighbour.undisturbed():
        outcome = line.run(
            config(),
            *(sound(n, data, start) for (n, start), data in zip(messages, parts, strict=True)),
        )
    assert (outcome.code, outcome.details) == OK
    final = outcome.finals[0]
    assert seconds(final.lost_time) == lost
    assert seconds(final.audio_time) == 2.0 + lost
    assert final.sequence == messages[-1][0]


# --- control ---


def test_discard_hold_and_resume(line, request_of, speech, voices, assert_same_prediction):
    music = encode(voices.agent[9 * RATE : 11 * RATE], Encoding.MULAW)
    outcome = line.run(
        config(),
        sound(1, music),
        request_of.control("discard"),
        request_of.control("hold"),
        sound(2, music),
        request_of.control("resume", 0),
        sound(3, speech),
        request_of.control("finish"),
    )
    alone = line.run(config(), sound(1, speech)).finals[0]
    assert (outcome.code, outcome.details) == OK
    final = outcome.finals[0]
    assert seconds(final.audio_time) == 6.0
    assert final.speech_time == alone.speech_time
    final.audio_time.CopyFrom(alone.audio_time)
    assert_same_prediction(final, alone)


def test_control_of_one_channel_leaves_the_other(
    line, request_of, demo_call, assert_same_prediction
):
    two = [pb.ChannelConfig()] * 2
    data = demo_call.data[: 2 * 6 * RATE]
    plain = line.run(config(channels=two), sound(1, data)).finals
    outcome = line.run(
        config(channels=two), sound(1, data), request_of.control("discard", 1)
    ).finals
    assert_same_prediction(outcome[0], plain[0])
    assert seconds(outcome[1].speech_time) == 0.0
    assert outcome[1].gender.undecided == pb.UNDECIDED_REASON_NO_SPEECH


def test_finish_is_the_same_as_half_closing(line, request_of, speech, assert_same_prediction):
    half_closed = line.run(config(), sound(1, speech))
    call = line.open(config(), sound(1, speech), request_of.control("finish"))
    outcome = call.outcome()  # the stream ends though nobody half-closes
    assert (outcome.code, outcome.details) == OK
    assert_same_prediction(outcome.finals[0], half_closed.finals[0])


def test_message_after_finish_changes_nothing(
    line, neighbour, request_of, speech, assert_same_prediction
):
    expected = line.run(config(), sound(1, speech)).finals[0]
    with neighbour.undisturbed():
        outcome = line.run(
            config(),
            sound(1, speech),
            request_of.control("finish"),
            sound(2, speech),
            sound(1, b""),
        )
    assert (outcome.code, outcome.details) == OK
    assert_same_prediction(outcome.finals[0], expected)
    assert outcome.finals[0].sequence == 1


# --- clients that vanish or fall silent ---


def test_cancelled_call_is_cleared_away(server, line, neighbour, speech, log_entry):
    call_id = unique()
    with neighbour.undisturbed():
        call = line.open(config(call_id=call_id), sound(1, speech))
        assert call.read().started.call_id == call_id
        call.cancel()
        entry = log_entry(server, "call_ended", call_id=call_id)
    assert entry["status"] == "CANCELLED"
    assert line.run(config(), sound(1, speech)).code is Code.OK


CLIENT = """
import asyncio, sys
from streamer.client import Client

async def main():
    async with Client(sys.argv[1]) as client, client.call(call_id=sys.argv[2]) as call:
        await call.send(bytes(8000))
        print("sent", flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


def test_killed_client_is_cleared_away(server, line, neighbour, speech, log_entry):
    call_id = unique()
    with subprocess.Popen(
        [sys.executable, "-c", CLIENT, server.target, call_id], stdout=subprocess.PIPE, text=True
    ) as client:
        try:
            assert client.stdout.readline() == "sent\n"
            log_entry(server, "call_started", call_id=call_id)
            with neighbour.undisturbed():
                client.send_signal(signal.SIGKILL)
                client.wait()
                log_entry(server, "call_ended", call_id=call_id)
        finally:
            client.kill()
    assert line.run(config(), sound(1, speech)).code is Code.OK


def test_silent_clients_are_given_up(impatient, make_line, make_neighbour, voices, log_entry):
    """One that never half-closes gets its final prediction; one without a config has none."""
    line = make_line(impatient.target)
    neighbour = make_neighbour(line, voices.caller[4 * RATE : 9 * RATE])
    call_id = unique()
    expected = line.run(config(), sound(1, SILENCE * 10)).finals[0]
    began = time.monotonic()
    endless = line.open(config(call_id=call_id), sound(1, SILENCE * 10))
    mute = line.open()
    other = threading.Thread(target=lambda: results.append(mute.outcome()))
    results = []
    other.start()
    outcome = endless.outcome()
    waited = time.monotonic() - began
    other.join()
    message = "no message for 1.5 s; half-close or send `finish` to end a call"
    assert (outcome.code, outcome.details) == (Code.DEADLINE_EXCEEDED, message)
    assert 1.5 <= waited < 10
    assert outcome.finals[0] == expected
    assert outcome.responses[-1].prediction.final
    (silent,) = results
    late = "config: it did not come within 1.5 s of the stream's opening"
    assert (silent.code, silent.details) == (Code.DEADLINE_EXCEEDED, late)
    assert silent.responses == []
    log_entry(impatient, "call_ended", call_id=call_id)
    with neighbour.undisturbed():  # the server serves on
        pass


def test_talking_clients_are_not_given_up(impatient, make_line):
    """Time counts from the last message, not from the first."""
    call = make_line(impatient.target).open(config())
    for number in range(1, 10):
        call.send(sound(number))
        time.sleep(0.4)
    call.half_close()
    outcome = call.outcome()
    assert (outcome.code, outcome.finals[0].sequence) == (Code.OK, 9)


def test_an_hour_of_silence(line, neighbour):
    with neighbour.undisturbed():
        outcome = line.run(config(), *(sound(n, b"\xff" * 80_000) for n in range(1, 361)))
    assert (outcome.code, outcome.details) == OK
    final = outcome.finals[0]
    assert seconds(final.audio_time) == 3600.0
    assert seconds(final.speech_time) < 1.0
    for name in TASKS:
        task = getattr(final, name)
        assert task.label == ""
        assert task.undecided in {
            pb.UNDECIDED_REASON_NO_SPEECH,
            pb.UNDECIDED_REASON_LITTLE_SPEECH,
        }


# --- limits ---


@pytest.fixture(scope="module")
def small():
    """A server for two calls, with chunks as long as may be set."""
    with local_server("--provider", "cpu", "--max-calls", "2", "--max-chunk-seconds", "60") as s:
        yield s


def test_third_call_of_two_is_put_off(small, make_line, speech):
    line = make_line(small.target)
    first, second = (line.open(config(), sound(1, speech)) for _ in range(2))
    for call in (first, second):
        assert call.read().HasField("started")
    third = line.run(config(), sound(1, speech))
    assert third.code is Code.RESOURCE_EXHAUSTED
    assert third.details == "calls: 3 exceeds the limit of 2"
    assert third.responses == []
    assert third.retry_seconds == 1.0
    first.half_close()
    assert first.outcome().code is Code.OK
    assert line.run(config(), sound(1, speech)).code is Code.OK
    second.half_close()
    assert second.outcome().code is Code.OK


def test_a_chunk_as_long_as_the_server_announces_is_taken(small, make_line):
    """In the most voluminous format too."""
    line = make_line(small.target)
    form = {
        "encoding": pb.AUDIO_ENCODING_LINEAR16,
        "sample_rate": 16000,
        "channels": [pb.ChannelConfig()] * 2,
    }
    announced = line.run(config(**form)).of("started")[0].limits.max_chunk
    assert announced == Duration(seconds=60)
    outcome = line.run(config(**form), sound(1, bytes(60 * 16000 * 2 * 2)))
    assert (outcome.code, outcome.details) == OK
    assert seconds(outcome.finals[1].audio_time) == 60.0


def resident_bytes(server):
    pages = Path(f"/proc/{server.process.pid}/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * resource.getpagesize()


def wait_until_idle(server):
    """Until a server has used no processor for a while: it has taken in all it will."""

    def used():
        fields = Path(f"/proc/{server.process.pid}/stat").read_text(encoding="ascii").split()
        return int(fields[13]) + int(fields[14])

    before = -1
    while used() > before:
        before = used()
        time.sleep(0.5)


def test_reader_that_does_not_read_costs_no_memory(server, make_line):
    """Predictions it has not read are replaced by newer ones, not piled up."""
    first, chunks = 1000, 9000
    # A window of 64 KB that does not grow holds some 400 predictions.
    call = make_line(server.target, ("grpc.http2.bdp_probe", 0)).open(
        config(update_interval=Duration(nanos=100_000_000), channels=[pb.ChannelConfig()] * 2)
    )
    assert call.read().HasField("started")
    call.send(*(sound(n, b"\xff" * 1600) for n in range(1, first + 1)))
    wait_until_idle(server)
    before = resident_bytes(server)
    call.send(*(sound(n, b"\xff" * 1600) for n in range(first + 1, chunks + 1)))
    wait_until_idle(server)
    growth = resident_bytes(server) - before
    call.half_close()
    outcome = call.outcome()
    assert (outcome.code, outcome.details) == OK
    assert {p.sequence for p in outcome.finals.values()} == {chunks}
    assert set(outcome.finals) == {0, 1}
    assert len(outcome.predictions) < 1000, "of 18 000 that were due"
    assert growth < 8 << 20, "the audio alone was 12 MB"


def test_reader_that_never_reads_is_given_up(impatient, make_line, log_entry):
    call_id = unique()
    call = make_line(impatient.target, ("grpc.http2.bdp_probe", 0)).open(
        config(call_id=call_id, update_interval=Duration(nanos=100_000_000)),
        *(sound(n) for n in range(1, 3001)),
    )
    call.half_close()
    try:
        entry = log_entry(impatient, "call_ended", seconds=10, call_id=call_id)
    finally:
        call.cancel()
    assert (entry["status"], entry["messages"]) == ("DEADLINE_EXCEEDED", 3000)


# --- a student that fails, in a server of the test's own ---


class Local:
    """The service around a fake student, in this process."""

    def __init__(self, student, policy, identities):
        self.student = student
        self.engine = Engine(student, asyncio.get_running_loop().call_soon_threadsafe)
        self.clock = time.monotonic
        self.metrics = Metrics()
        self.service = ClassifierService(
            Models(ServedModel.of(self.engine)),
            policy,
            self._now,
            self.metrics,
            identities,
        )
        self.server = grpc.aio.server()
        pb_grpc.add_ClassifierServiceServicer_to_server(self.service, self.server)
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{self.port}")
        self.stub = pb_grpc.ClassifierServiceStub(self.channel)

    def _now(self):
        return self.clock()

    async def outcome(self, *requests):
        """Code, details and final predictions of a call."""
        stream = self.stub.StreamClassify(iter(requests), timeout=30)
        finals = []
        with contextlib.suppress(grpc.aio.AioRpcError):
            finals.extend([r.prediction async for r in stream if r.prediction.final])
        return await stream.code(), await stream.details(), finals


@pytest.fixture
def in_process(run_async, make_student):
    """Run a scenario against a server around a fake student."""

    async def main(scenario, policy, identities):
        local = Local(make_student(), policy, identities)
        await local.server.start()
        try:
            await scenario(local)
        finally:
            await local.channel.close()
            await local.server.stop(None)
            local.student.gate.set()
            await asyncio.to_thread(local.engine.stop)

    def run(scenario, identities=None, **policy):
        return run_async(main(scenario, Policy(**policy), identities))

    return run


@pytest.mark.parametrize(
    ("marker", "reason"),
    [("RAISES", "ArithmeticError"), ("NAN", "its answer is not finite")],
)
def test_failing_student_is_internal_to_one_call(in_process, make_student, marker, reason):
    noise = np.random.default_rng(0).integers(-9000, 9000, 2 * RATE).astype(np.int16)
    bad = noise.copy()
    bad[0] = getattr(make_student, marker)

    async def scenario(local):
        def call(samples):
            return local.outcome(LINEAR, sound(1, samples.tobytes()))

        quiet = await call(noise)
        assert quiet[0] is Code.OK
        good, failed, other = await asyncio.gather(call(noise), call(bad), call(noise))
        assert failed == (
            Code.INTERNAL,
            f"the student failed on this call: {reason}",
            [],
        )
        assert good == other == quiet
        assert local.service.running == 0
        assert local.service._calls == set()

    in_process(scenario)


def test_client_gone_before_the_answer_leaves_nothing_behind(in_process):
    """The stream breaks while `started` is written: the call must be taken off the books."""

    class Gone:
        def __init__(self):
            self.requests = [config()]

        def invocation_metadata(self):
            return ()

        async def read(self):
            if not self.requests:
                await asyncio.Event().wait()
            return self.requests.pop()

        async def write(self, _):
            raise asyncio.CancelledError

        def peer(self):
            return "ipv4:192.0.2.1:4711"

        def auth_context(self):
            return {}

    async def scenario(local):
        task = asyncio.create_task(local.service.StreamClassify(None, Gone()))
        await asyncio.wait({task})
        assert task.cancelled()
        assert local.service.running == 0
        assert local.service._calls == set()
        assert local.service._admission.held == {}

    in_process(scenario)


def test_idle_sweep_goes_by_the_clock_it_is_given(in_process):
    """The sweeper ends exactly those calls that have been silent for too long."""

    async def scenario(local):
        now = [1000.0]
        local.clock = lambda: now[0]
        stream = local.stub.StreamClassify(timeout=30)
        await stream.write(config())
        await stream.read()
        now[0] += 299.0
        local.service.sweep()
        await stream.write(sound(1))
        while not any(call.messages for call in local.service._calls):
            await asyncio.sleep(0.01)
        now[0] += 299.0
        local.service.sweep()
        await asyncio.sleep(0.05)
        assert not stream.done()
        now[0] += 2.0
        local.service.sweep()
        final = await stream.read()
        assert final.prediction.final
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
        assert caught.value.code() is Code.DEADLINE_EXCEEDED
        assert local.service.running == 0

    in_process(scenario)
