"""Serialise the state of a call to a checkpoint: bytes that only the server's replicas can read.

A snapshot becomes a protobuf message, is compressed, then sealed. A checkpoint that opens is
authentic, as only a replica can have sealed it; that it belongs to the call is checked here.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from google.protobuf.message import DecodeError

from streamer.audio.codec import Samples
from streamer.audio.speech_gate import GateState
from streamer.errors import FailedPrecondition, ForeignCheckpoint, InvalidArgument
from streamer.inference.metadata import Memory, Metadata
from streamer.rpc import checkpoint_pb2 as inner
from streamer.rpc import voicecohort_pb2 as pb
from streamer.security.encryption import OVERHEAD, Sealer, SealError
from streamer.session.state import CallState, ChannelState
from streamer.transport.converters import MAX_CHANNELS

CALL_KEY_BYTES = 16
_DIGEST_BYTES = 32  # SHA-256
_MAX_COUNT = 2**40
"""Samples, frames or messages; two years at 16 kHz."""
_SMALL_BYTES = 16_384
"""Bound on the part of a state that does not grow with the model: names, config, counters
(below 4 kB), and per channel the VAD, at most 1,200 + 239 samples of its gate, a filter."""
_FIELD = "config.resume_from"
_NOT_COMPARED = frozenset({"resume_from", "call_id"})
"""Fields of the config that may differ."""


@dataclass(frozen=True)
class CallIdentity:
    """The call that a checkpoint is bound to.

    Attributes:
        key: random, the same in all checkpoints of a call.
        model_digest: SHA-256 of the model file, hexadecimal.
        caller: identity that opened the call; empty if only its address is known.
        call_id: as sent in `started`.
        config: as received.
    """

    key: bytes
    model_digest: str
    caller: str
    call_id: str
    config: pb.StreamConfig


@dataclass(frozen=True)
class Resumed:
    """A call to resume.

    Attributes:
        identity: of the call.
        state: to restore.
        age: seconds since the checkpoint was made.
    """

    identity: CallIdentity
    state: CallState
    age: float


def new_call_key() -> bytes:
    """Random key of a call."""
    return os.urandom(CALL_KEY_BYTES)


def max_bytes(metadata: Metadata) -> int:
    """Bytes of the longest checkpoint of this model before compression."""
    block = 2 * metadata.block
    return _SMALL_BYTES + MAX_CHANNELS * (metadata.memory_bytes + block)


def max_sealed_bytes(metadata: Metadata) -> int:
    """Bytes of the longest checkpoint: incompressible data grows a little (RFC 1951, 3.2.4)."""
    longest = max_bytes(metadata)
    return longest + longest // 1000 + 64 + OVERHEAD


class Checkpoints:
    """Makes and reads checkpoints.

    Args:
        sealer: with the keys of all replicas.
    """

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    def seal(self, identity: CallIdentity, state: CallState) -> bytes:
        """Make the checkpoint of a call.

        Raises:
            ValueError: no audio was received yet: there is nothing to resume.
        """
        digest = bytes.fromhex(identity.model_digest)
        return self._sealer.seal(digest + _compressed(_packed(identity, state)))

    def open(self, sealed: bytes, metadata_of: Callable[[str], Metadata | None]) -> Resumed:
        """Open a checkpoint.

        Args:
            sealed: as received.
            metadata_of: metadata of the model whose file has this SHA-256, hexadecimal; None if it
                is not loaded.

        Raises:
            InvalidArgument: forged, damaged, or too old.
            FailedPrecondition: its model is not loaded.
        """
        try:
            opened = self._sealer.open(sealed)
        except SealError as error:
            raise _refused(len(sealed), str(error)) from error
        digest = opened.content[:_DIGEST_BYTES].hex()
        metadata = metadata_of(digest)
        if metadata is None:
            raise FailedPrecondition(
                _FIELD, "it is of a model that this server does not have", reason="checkpoint"
            )
        # Authentic as it is, it may be of a replica with a fault.
        try:
            plain = _decompressed(opened.content[_DIGEST_BYTES:], max_bytes(metadata))
            identity, state = _unpacked(digest, inner.CallMemory.FromString(plain))
        except (zlib.error, ValueError, DecodeError) as error:
            raise _refused(len(sealed), f"it cannot be read: {error}") from error
        return Resumed(identity, state, opened.age)


def require_same_call(identity: CallIdentity, config: pb.StreamConfig, caller: str) -> None:
    """Verify that a checkpoint is of the call that a stream resumes.

    Args:
        identity: of the checkpoint.
        config: first message of the stream.
        caller: identity of its opener; empty if only the address is known.

    Raises:
        ForeignCheckpoint: another identity opened the call.
        InvalidArgument: a field is not as it was when the call started; names the first.
    """
    if caller != identity.caller:
        raise ForeignCheckpoint
    if config.call_id not in {identity.config.call_id, identity.call_id}:
        raise _changed("call_id")
    for field in config.DESCRIPTOR.fields:
        name = field.name
        if name not in _NOT_COMPARED and getattr(config, name) != getattr(identity.config, name):
            raise _changed(name)
        if field.has_presence and config.HasField(name) != identity.config.HasField(name):  # type: ignore[arg-type]
            raise _changed(name)


def _changed(name: str) -> InvalidArgument:
    return InvalidArgument(
        f"config.{name}",
        "another value",
        "a call that is resumed has every field as when it started",
        reason="checkpoint",
    )


def _refused(length: int, rule: str) -> InvalidArgument:
    return InvalidArgument(_FIELD, f"a checkpoint of {length} bytes", rule, reason="checkpoint")


# --- compression ---


def _compressed(plain: bytes) -> bytes:
    # Nearly half of a model state is zeros, in runs; the rest hardly repeats. Looking for
    # runs alone is faster and no longer; splitting the floats into byte planes made it longer.
    packer = zlib.compressobj(level=1, strategy=zlib.Z_RLE)
    return packer.compress(plain) + packer.flush()


def _decompressed(packed: bytes, longest: int) -> bytes:
    """Raises ValueError for what is not one whole stream, or too long."""
    unpacker = zlib.decompressobj()
    plain = unpacker.decompress(packed, longest)
    if not unpacker.eof or unpacker.unused_data:
        raise ValueError(f"its end is missing, not the end, or beyond {longest} bytes")
    return plain


# --- to protobuf and back ---


def _packed(identity: CallIdentity, state: CallState) -> bytes:
    if state.sequence is None:
        raise ValueError("a call without audio has no checkpoint")
    config = pb.StreamConfig()
    config.CopyFrom(identity.config)
    config.ClearField("resume_from")
    config.DiscardUnknownFields()  # they could be of any length
    return inner.CallMemory(
        call_key=identity.key,
        identity=identity.caller,
        call_id=identity.call_id,
        config=config,
        sequence=state.sequence,
        position=state.position,
        lost=state.lost,
        duplicates=state.duplicates,
        next_update=state.next_update,
        filters=[_bytes(history) for history in state.filters],
        channels=[_packed_channel(index, channel) for index, channel in state.channels.items()],
    ).SerializeToString()


def _packed_channel(index: int, state: ChannelState) -> inner.ChannelMemory:
    gate = state.gate
    return inner.ChannelMemory(
        index=index,
        gate=inner.GateMemory(
            vad=gate.vad,
            rest=_bytes(gate.rest),
            recent=_bytes(gate.recent),
            voiced=gate.voiced,
            unvoiced=gate.unvoiced,
            position=gate.position,
            speaking=gate.speaking,
        ),
        held=state.held,
        block=_bytes(state.block),
        speech=state.speech,
        posteriors=[inner.Posterior(probabilities=task) for task in state.posteriors or ()],
        state=state.memory.state.astype("<f4", copy=False).tobytes(),
        cache=state.memory.cache.tobytes(),
    )


def _unpacked(digest: str, memory: inner.CallMemory) -> tuple[CallIdentity, CallState]:
    """Raises ValueError for counters that no call reaches, and halves of samples."""
    identity = CallIdentity(memory.call_key, digest, memory.identity, memory.call_id, memory.config)
    state = CallState(
        sequence=memory.sequence,
        position=_count(memory.position),
        lost=_count(memory.lost),
        duplicates=_count(memory.duplicates),
        next_update=_count(memory.next_update),
        filters=tuple(_samples(history) for history in memory.filters),
        channels={channel.index: _unpacked_channel(channel) for channel in memory.channels},
    )
    return identity, state


def _unpacked_channel(memory: inner.ChannelMemory) -> ChannelState:
    gate = memory.gate
    return ChannelState(
        gate=GateState(
            vad=gate.vad,
            rest=_samples(gate.rest),
            recent=_samples(gate.recent),
            voiced=_count(gate.voiced),
            unvoiced=_count(gate.unvoiced),
            position=_count(gate.position),
            speaking=gate.speaking,
        ),
        held=memory.held,
        block=_samples(memory.block),
        speech=_count(memory.speech),
        posteriors=tuple(list(task.probabilities) for task in memory.posteriors) or None,
        memory=Memory(
            np.frombuffer(memory.state, "<f4").astype(np.float32, copy=False),
            np.frombuffer(memory.cache, np.uint8),
        ),
    )


def _bytes(samples: Samples) -> bytes:
    return samples.astype("<i2", copy=False).tobytes()


def _samples(data: bytes) -> Samples:
    return np.frombuffer(data, "<i2").astype(np.int16, copy=False)


def _count(value: int) -> int:
    if value > _MAX_COUNT:
        raise ValueError(f"a counter at {value}")
    return value
