"""Bad input gets a precise status and has no effect on anyone else."""

import contextlib

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from streamer.rpc import voicecohort_pb2 as pb
from tests.streamer.wire import (
    EXHAUSTED,
    FAILED,
    IGNORED,
    INVALID,
    LINEAR,
    SILENCE,
    config,
    control,
    sound,
    unique,
)

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
    "call id not ASCII": ([config(call_id="Grüße")], INVALID, "config.call_id: 'Gr"),
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
