"""What is in a checkpoint comes back; what does not belong there is refused."""

import base64
import dataclasses
import os
import zlib

import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import example, given
from hypothesis import strategies as st

from streamer.audio.codec import Encoding
from streamer.audio.speech_gate import GateState
from streamer.audio.vad_state import VAD_BYTES
from streamer.checkpoint import serialization as module
from streamer.checkpoint.serialization import (
    CallIdentity,
    Checkpoints,
    max_bytes,
    max_sealed_bytes,
    new_call_key,
    require_same_call,
)
from streamer.errors import FailedPrecondition, ForeignCheckpoint, InvalidArgument
from streamer.inference.metadata import Memory
from streamer.rpc import checkpoint_pb2 as inner
from streamer.rpc import voicecohort_pb2 as pb
from streamer.security.encryption import Keys, Sealer
from streamer.session.state import CallState, ChannelState
from tests.streamer.session.snapshot.steps import plain, snapshot

RATE = 8000
STUDENT = "ab" * 32


def config(**fields):
    defaults = {
        "call_id": "call-1",
        "encoding": pb.AUDIO_ENCODING_MULAW,
        "sample_rate": RATE,
        "channels": [pb.ChannelConfig(role=pb.CHANNEL_ROLE_CALLER), pb.ChannelConfig()],
        "checkpoint_interval": Duration(seconds=10),
    }
    return pb.StreamConfig(**(defaults | fields))


def identity(**fields):
    defaults = {
        "key": bytes(range(16)),
        "model_digest": STUDENT,
        "caller": "berlin",
        "call_id": "call-1",
        "config": config(),
    }
    return CallIdentity(**(defaults | fields))


@pytest.fixture(scope="module")
def sealer(tmp_path_factory):
    path = tmp_path_factory.mktemp("keys") / "keys.toml"
    secret = base64.b64encode(os.urandom(32)).decode()
    path.write_text(f'[[key]]\nid = "k"\nsecret = "{secret}"\n')
    return Sealer(Keys(path), 300.0, lambda: 1e9)


@pytest.fixture(scope="module")
def checkpoints(sealer):
    return Checkpoints(sealer)


@pytest.fixture(scope="module")
def metadata(make_student):
    """Of a student with a state of 8 numbers."""
    return make_student().metadata


count = st.integers(0, 2**40)


def samples(most):
    """Up to so many, of any value, at the cost of two draws."""
    return st.builds(
        lambda length, seed: np.frombuffer(np.random.default_rng(seed).bytes(2 * length), np.int16),
        st.integers(0, most),
        st.integers(0, 2**32 - 1),
    )


floats = st.floats(width=32, allow_nan=False)
gates = st.builds(
    GateState,
    vad=st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).bytes(VAD_BYTES)),
    rest=samples(239),
    recent=samples(1200),
    voiced=count,
    unvoiced=count,
    position=count,
    speaking=st.booleans(),
)
channels = st.builds(
    ChannelState,
    gate=gates,
    held=st.booleans(),
    block=samples(1279),
    speech=count,
    posteriors=st.none() | st.tuples(*(st.lists(floats, min_size=1, max_size=7),) * 3),
    memory=st.builds(
        Memory,
        st.lists(floats, min_size=8, max_size=8).map(lambda v: np.array(v, np.float32)),
        st.binary(max_size=8).map(lambda data: np.frombuffer(data, np.uint8)),
    ),
)
states = st.builds(
    CallState,
    sequence=st.integers(0, 2**64 - 1),
    position=count,
    lost=count,
    duplicates=count,
    next_update=count,
    filters=st.lists(samples(54), max_size=2).map(tuple),
    channels=st.dictionaries(st.integers(0, 1), channels, min_size=1),
)


@given(state=states, caller=st.text(max_size=30), call_id=st.text(max_size=30))
def test_state_round_trip(checkpoints, metadata, state, caller, call_id):
    of = identity(caller=caller, call_id=call_id, key=new_call_key())
    sealed = checkpoints.seal(of, state)
    assert len(sealed) <= max_sealed_bytes(metadata)
    resumed = checkpoints.open(sealed, {STUDENT: metadata}.get)
    assert plain(resumed.state) == plain(state)
    assert resumed.identity == of
    assert resumed.age == 0


def fullest(metadata, noise):
    """A call that remembers as much as one can, none of it to be compressed."""

    def values(length):
        return np.frombuffer(noise.bytes(2 * length), np.int16)

    gate = GateState(noise.bytes(VAD_BYTES), values(239), values(1200), 2**40, 2**40, 2**40, True)
    tasks = [len(metadata.labels.of(task)) for task in ("gender", "age_group", "age_band")]
    memory = Memory(
        noise.random(metadata.state_size, np.float32),
        np.frombuffer(noise.bytes(metadata.cache_size), np.uint8),
    )
    channel = ChannelState(
        gate,
        True,
        values(metadata.block - 1),
        2**40,
        tuple(noise.random(classes, np.float32).tolist() for classes in tasks),
        memory,
    )
    return CallState(
        2**64 - 1, 2**40, 2**40, 2**40, 2**40, (values(54), values(54)), {0: channel, 1: channel}
    )


def test_longest_checkpoint_stays_within_the_bound(checkpoints, student):
    """Of the shipped student, and with everything in it that a stranger may choose."""
    metadata = student.metadata
    state = fullest(metadata, np.random.default_rng(1))
    of = identity(
        caller="ü" * 256, call_id="x" * 128, config=config(call_id="y" * 128), key=new_call_key()
    )
    sealed = checkpoints.seal(of, state)
    assert 40_000 < len(sealed) <= max_sealed_bytes(metadata) < 64_000
    assert max_bytes(metadata) - len(module._packed(of, state)) < 12_000, "the bound is tight"


def test_unknown_fields_are_dropped(checkpoints, metadata, state):
    stuffed = pb.StreamConfig.FromString(
        config().SerializeToString() + b"\xfa\x7f\x80\x80\x20" + bytes(0x80000)
    )
    assert len(stuffed.SerializeToString()) > 0x80000
    sealed = checkpoints.seal(identity(config=stuffed), state)
    assert len(sealed) < max_sealed_bytes(metadata)
    assert checkpoints.open(sealed, {STUDENT: metadata}.get).identity.config == config()


@pytest.fixture(scope="module")
def state(make_bench, audio, voices):
    """Of a call in the middle of speech."""
    bench = make_bench()
    recorder = bench.session(sample_rate=16000)
    signal = voices.caller[5 * RATE : 7 * RATE]
    recorder.session.audio(7, audio.wire([signal], Encoding.MULAW, 16000))
    return snapshot(bench, recorder)


def test_call_without_audio_has_no_checkpoint(checkpoints, state):
    with pytest.raises(ValueError, match="without audio"):
        checkpoints.seal(identity(), dataclasses.replace(state, sequence=None))


def test_checkpoint_is_not_readable(checkpoints, state):
    sealed = checkpoints.seal(identity(), state)
    gate = state.channels[0].gate
    for secret in (
        b"call-1",
        b"berlin",
        gate.vad[180:200],
        state.channels[0].memory.state.tobytes(),
    ):
        assert secret not in sealed
        assert secret not in zlib.compress(sealed)


def refused(checkpoints, sealed, metadata, rule, error=InvalidArgument):
    with pytest.raises(error, match=rule) as caught:
        checkpoints.open(sealed, {STUDENT: metadata}.get)
    assert str(caught.value).startswith("config.resume_from: ")
    assert caught.value.reason == "checkpoint"


def test_altered_checkpoint_is_refused(checkpoints, metadata, state):
    sealed = checkpoints.seal(identity(), state)
    for length in range(len(sealed)):
        refused(checkpoints, sealed[:length], metadata, rf"a checkpoint of {length} bytes is not")
    for position in range(len(sealed)):
        forged = bytearray(sealed)
        forged[position] ^= 0x40
        refused(checkpoints, bytes(forged), metadata, "a checkpoint of")
    sealed = checkpoints.seal(identity(model_digest="cd" * 32), state)
    refused(checkpoints, sealed, metadata, "a model that this server", FailedPrecondition)


def inside(content):
    """Content as a faulty replica might seal it."""
    return bytes.fromhex(STUDENT) + content


@given(content=st.binary(max_size=200))
@example(content=None)
def test_authentic_nonsense_is_refused(sealer, checkpoints, metadata, content):
    if content is None:
        bomb = zlib.compress(bytes(100 << 20), 9)
        assert len(bomb) < 200_000
        return refused(checkpoints, sealer.seal(inside(bomb)), metadata, "beyond")
    packed = module._compressed(content)
    for wrong in (content, packed[:-1], packed + b"x"):
        refused(checkpoints, sealer.seal(inside(wrong)), metadata, "it cannot be read")
    return None


def test_longest_content_is_accepted(metadata):
    most = max_bytes(metadata)
    assert module._decompressed(module._compressed(bytes(most)), most) == bytes(most)
    with pytest.raises(ValueError, match="beyond"):
        module._decompressed(module._compressed(bytes(most + 1)), most)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: setattr(m, "position", 2**40 + 1),
        lambda m: setattr(m.channels[0].gate, "position", 2**64 - 1),
        lambda m: setattr(m.channels[0], "block", b"odd"),
        lambda m: setattr(m.channels[0], "state", b"\0" * 31),
        lambda m: m.filters.append(b"1"),
    ],
)
def test_authentic_but_invalid_state_is_refused(sealer, checkpoints, metadata, state, change):
    memory = inner.CallMemory.FromString(module._packed(identity(), state))
    change(memory)
    sealed = sealer.seal(inside(module._compressed(memory.SerializeToString())))
    refused(checkpoints, sealed, metadata, "it cannot be read")


def test_nameless_call_may_use_its_given_name():
    require_same_call(identity(), config(resume_from=b"x"), "berlin")
    nameless = identity(config=config(call_id=""), call_id="made-up")
    for name in ("", "made-up"):
        require_same_call(nameless, config(call_id=name), "berlin")
    with pytest.raises(InvalidArgument, match=r"config.call_id: another value"):
        require_same_call(nameless, config(call_id="other"), "berlin")


@pytest.mark.parametrize("caller", ["", "Berlin", "hamburg"])
def test_other_caller_is_denied(caller):
    with pytest.raises(ForeignCheckpoint) as caught:
        require_same_call(identity(), config(), caller)
    assert caught.value.status == "PERMISSION_DENIED"


CHANGES = {
    "call_id": "call-2",
    "encoding": pb.AUDIO_ENCODING_ALAW,
    "sample_rate": 16000,
    "channels": [pb.ChannelConfig(role=pb.CHANNEL_ROLE_AGENT), pb.ChannelConfig()],
    "update_interval": Duration(seconds=1),
    "min_speech": Duration(),  # set to nothing is not unset
    "speech_events": True,
    "checkpoint_interval": Duration(seconds=11),
}


@pytest.mark.parametrize(("field", "value"), [*CHANGES.items(), ("channels", [])])
def test_changed_field_is_named(field, value):
    with pytest.raises(InvalidArgument, match=rf"^config.{field}: another value is not valid"):
        require_same_call(identity(), config(**{field: value}), "berlin")


def test_every_field_is_compared():
    assert {f.name for f in pb.StreamConfig.DESCRIPTOR.fields} == {*CHANGES, "resume_from"}
