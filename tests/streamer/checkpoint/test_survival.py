"""Real servers that are killed, stopped or changed, over the bare protocol."""

import base64
import os
import signal
import subprocess
import sys

import pytest
from google.protobuf.duration_pb2 import Duration

from streamer.audio.codec import Encoding
from streamer.process.local_server import local_server
from streamer.rpc import voicecohort_pb2 as pb
from tests.streamer.wire import RATE, Code, config, control, sound

FORMATS = {
    "mu-law": (Encoding.MULAW, pb.AUDIO_ENCODING_MULAW, 8000, 1),
    "A-law, two channels": (Encoding.ALAW, pb.AUDIO_ENCODING_ALAW, 8000, 2),
    "linear at 16 kHz, two channels": (Encoding.LINEAR16, pb.AUDIO_ENCODING_LINEAR16, 16000, 2),
}


def entry(name):
    secret = base64.b64encode(os.urandom(32)).decode()
    return f'[[key]]\nid = "{name}"\nsecret = "{secret}"\n'


def replace(path, *entries):
    fresh = path.with_suffix(".new")
    fresh.write_text("".join(entries))
    fresh.replace(path)
    return path


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return replace(tmp_path_factory.mktemp("keys") / "keys.toml", entry("k"))


def replica(keys, *arguments):
    return local_server("--provider", "cpu", "--checkpoint-keys", str(keys), *arguments)


@pytest.fixture(scope="module")
def survivor(keys):
    """The server that lives on."""
    with replica(keys) as running:
        yield running


@pytest.fixture(scope="module")
def call_of(audio, voices):
    """Config and messages of a call of 8 s: losses, a hold and a discard in it."""

    def make(name):
        encoding, wire, rate, channels = FORMATS[name]
        signals = [side[4 * RATE : 12 * RATE] for side in (voices.caller, voices.agent)]
        frame = encoding.width * channels
        data = audio.wire(signals[:channels], encoding, rate)
        fields = {
            "call_id": name,
            "encoding": wire,
            "sample_rate": rate,
            "channels": [pb.ChannelConfig()] * channels,
            "checkpoint_interval": Duration(seconds=1),
        }
        messages = []
        for number, part in enumerate(audio.cut(data, [rate // 10], frame), start=1):
            if number in (25, 26, 27):
                continue  # lost
            messages.append(sound(number, part))
            if number == 18:
                messages.append(control("discard", 0))
            if number in (40, 44):
                messages.append(control("hold" if number == 40 else "resume"))
        return fields, messages

    return make


def up_to(messages, sequence):
    """Number of messages up to that audio; the controls behind it come again."""
    return [message.audio.sequence for message in messages].index(sequence) + 1


def checkpoint_at(call, sequence):
    """Read until the checkpoint at this message or a later one."""
    read = call.wait_for(lambda r: r.checkpoint.sequence >= sequence)
    return read[-1].checkpoint


def same(assert_same_prediction, one, other):
    assert one.finals.keys() == other.finals.keys()
    for channel, final in one.finals.items():
        assert_same_prediction(final, other.finals[channel])
        assert final.sequence == other.finals[channel].sequence
        assert final.speech_time.ToSeconds() >= 1


@pytest.mark.parametrize("name", FORMATS)
def test_call_resumes_after_kill(keys, survivor, call_of, make_line, assert_same_prediction, name):
    fields, messages = call_of(name)
    there = make_line(survivor.target)
    whole = there.run(config(**fields), *messages)
    assert whole.code is Code.OK
    with replica(keys) as doomed:
        call = make_line(doomed.target).open(config(**fields), *messages[:45])
        checkpoint = checkpoint_at(call, 30)
        doomed.process.send_signal(signal.SIGKILL)
        assert call.outcome().code is Code.UNAVAILABLE
    assert len(checkpoint.data) < 64_000
    done = up_to(messages, checkpoint.sequence)
    again = [message for message in messages[done - 3 : done] if message.HasField("audio")]
    resumed = there.run(config(**fields, resume_from=checkpoint.data), *again, *messages[done:])
    assert (resumed.code, resumed.details) == (Code.OK, "")
    same(assert_same_prediction, resumed, whole)
    assert {p.audio_time.ToSeconds() for p in resumed.finals.values()} == {8}


def test_sigterm_migrates_the_call(
    keys, survivor, call_of, make_line, assert_same_prediction, log_entry
):
    fields, messages = call_of("mu-law")
    fields["call_id"] = "sent-away"
    there = make_line(survivor.target)
    whole = there.run(config(**fields), *messages)
    with replica(keys, "--drain-seconds", "20") as leaving:
        call = make_line(leaving.target).open(config(**fields), *messages[:37])
        checkpoint_at(call, 30)
        leaving.process.send_signal(signal.SIGTERM)
        outcome = call.outcome()
        assert outcome.code is Code.UNAVAILABLE
        assert outcome.retry_seconds == 0
        assert outcome.finals == {}
        assert leaving.process.wait(10) == 0, "it need not wait for its calls to end"
        assert log_entry(leaving, "call_ended", call_id="sent-away")["reason_code"] == "moved"
    last = outcome.responses[-1].checkpoint
    assert last.sequence >= 30
    done = up_to(messages, last.sequence)
    resumed = there.run(config(**fields, resume_from=last.data), *messages[done:])
    same(assert_same_prediction, resumed, whole)


def test_keys_rotate_under_a_call(tmp_path, call_of, make_line, assert_same_prediction, log_entry):
    old, new = entry("old"), entry("new")
    path = replace(tmp_path / "keys.toml", old)
    fields, messages = call_of("mu-law")
    with replica(path) as server:
        line = make_line(server.target)
        whole = line.run(config(**fields), *messages)
        call = line.open(config(**fields), *messages[:20])
        first = checkpoint_at(call, 10)
        replace(path, new, old)
        call.send(*messages[20:40])
        second = checkpoint_at(call, 30)
        assert (b"old" in first.data, b"new" in second.data) == (True, True)
        call.cancel()
        done = up_to(messages, first.sequence)
        resumed = line.open(config(**fields, resume_from=first.data))
        third = checkpoint_at(resumed, first.sequence)
        replace(path, new)
        resumed.send(*messages[done:])
        resumed.half_close()
        same(assert_same_prediction, resumed.outcome(), whole)
        refused = line.run(config(**fields, resume_from=first.data))
        assert refused.code is Code.INVALID_ARGUMENT
        assert refused.details.endswith("no key of this server opens it")
        used = line.run(config(**fields, resume_from=third.data))
        assert used.code is Code.FAILED_PRECONDITION
        changed = log_entry(server, "checkpoint_keys_changed")
        assert changed["keys"] == ["new", "old"]
        assert old.split('"')[3] not in str(server.log)


def test_checkpoint_is_not_logged(keys, survivor, call_of, make_line):
    fields, messages = call_of("mu-law")
    line = make_line(survivor.target)
    call = line.open(config(**fields), *messages[:30])
    data = checkpoint_at(call, 10).data
    call.cancel()
    refused = line.run(config(**fields, resume_from=data[:-1]))
    assert refused.code is Code.INVALID_ARGUMENT
    secret = keys.read_text().split('"')[3]
    for piece in (
        data[100:116].hex(),
        base64.b64encode(data[99:117]).decode(),
        repr(data[100:110]),
    ):
        assert piece not in str(survivor.log)
    assert secret not in str(survivor.log)


CHECK = """import sys
from streamer import serve
from streamer.audio import vad_state
{}
sys.exit(serve.main())"""


def check(*arguments, patch="0"):
    """Exit status of a start that stops short of serving, and its last line."""
    flags = ["--listen", "127.0.0.1:0", "--provider", "cpu", "--check", *arguments]
    done = subprocess.run(
        [sys.executable, "-c", CHECK.format(patch), *flags],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file or directory"),
        ("[[key]]\nid = 'x'\nsecret = 'c2hvcnQ='\n", "key 1: secret: Value error, must be 32 byte"),
    ],
)
def test_bad_keys_stop_the_start(tmp_path, content, reason):
    path = tmp_path / "keys.toml"
    if content is not None:
        path.write_text(content)
    code, line = check("--checkpoint-keys", str(path))
    assert code == 2
    assert line.startswith(f"checkpoint keys {path}: {reason}")
    assert "c2hvcnQ" not in line


def test_unknown_vad_layout_stops_the_start(keys):
    other_build = "vad_state._FRESH['mean_value'] = 1601"
    code, line = check("--checkpoint-keys", str(keys), patch=other_build)
    assert code == 2
    assert line.startswith("webrtcvad: mean_value of a fresh VAD is [1600, 1600")
    assert check(patch=other_build)[0] == 0
    assert check("--checkpoint-keys", str(keys))[0] == 0
