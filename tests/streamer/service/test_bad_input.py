"""Bad input gets a precise status and has no effect on anyone else."""

import contextlib

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from streamer.rpc import voicecohort_pb2 as pb
from tests.streamer.wire import EXHAUSTED, FAILED, INVALID, LINEAR, config, control, sound, unique

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
    "rate 44100": (
        [config(sample_rate=44100)],
        INVALID,
        "config.sample_rate: 44100 is not valid; 8000 or 16000 Hz",
    ),
    "call id not ASCII": ([config(call_id="Grüße")], INVALID, "config.call_id: 'Gr"),
    "checkpoints": (
        [config(checkpoint_interval=Duration(seconds=5))],
        FAILED,
        "config.checkpoint_interval: this server has no checkpoints",
    ),
    "half a sample": (
        [LINEAR, sound(1, bytes(801))],
        INVALID,
        "audio.data: 801 bytes is not valid; a sample of every channel takes 2 bytes",
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
def test_undecodable_message_is_refused(line, neighbour, requests):
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
def test_log_has_the_status_of_the_call(server, line, log_entry, requests, status):
    call_id = unique()
    outcome = line.run(config(call_id=call_id), *requests)
    assert outcome.code.name == status
    log_entry(server, "call_started", call_id=call_id)
    assert log_entry(server, "call_ended", call_id=call_id)["status"] == status
