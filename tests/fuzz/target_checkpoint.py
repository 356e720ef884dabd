"""Checkpoints: forged and damaged ones are refused, authentic nonsense harms nobody.

An input is shown to the service as ``resume_from`` of a call beside the witness. Some inputs are
bytes that nobody sealed; in others the encryption is stripped: what they say is compressed and
sealed with the right key, as a replica with a fault might.
"""

from __future__ import annotations

import functools
import zlib

import gateway
import harness
from gateway import Ending
from google.protobuf.message import DecodeError
from harness import CallHarness
from inputs import FuzzInput

from streamer.checkpoint import serialization as module
from streamer.rpc import checkpoint_pb2 as inner
from streamer.rpc import voicecohort_pb2 as pb

MODES = ("forged", "damaged", "content", "compressed", "memory", "fields", "fields", "fields")
NUMBERS = (0, 1, 7999, 8000, 2**40, 2**40 + 1, 2**63, 2**64 - 1)
PROBABILITIES = (0.0, -1.0, 1.0, 0.5, float("nan"), float("inf"), 1e-45, 3e38)
BYTES = ("vad", "rest", "recent", "block", "state", "cache", "filters", "posteriors")
LENGTHS = (0, 1, 2, 32, 33, 480, 478, 736, 2400, 2560)


class Maker:
    """A call that has a checkpoint, and the parts that it is made of.

    Args:
        calls: whose service sealed it.
    """

    def __init__(self, calls: CallHarness, *, wide: bool) -> None:
        self.calls = calls
        self.config = pb.StreamConfig(
            encoding=pb.AUDIO_ENCODING_LINEAR16 if wide else pb.AUDIO_ENCODING_MULAW,
            sample_rate=16000 if wide else 8000,
            call_id="resumed",
            speech_events=True,
        )
        self.config.checkpoint_interval.FromSeconds(1)
        made, pauses = [], [gateway.Pause]
        while not made:  # sent when the model has processed as much, unless the call is over before
            pauses *= 2
            ending = calls.try_call([self._first(), *self._audio(1, 14), *pauses])
            made = [r.checkpoint for r in ending.responses if r.HasField("checkpoint")]
        self.sealed, self.sequence = made[0].data, made[0].sequence
        self.content = calls.sealer.open(self.sealed).content
        self.digest = self.content[: module._DIGEST_BYTES]
        packed = self.content[module._DIGEST_BYTES :]
        self.memory = inner.CallMemory.FromString(zlib.decompress(packed))

    def _first(self, resume_from: bytes = b"") -> pb.StreamClassifyRequest:
        config = pb.StreamConfig(resume_from=resume_from)
        config.MergeFrom(self.config)
        return pb.StreamClassifyRequest(config=config)

    def _audio(self, first: int, last: int) -> list[pb.StreamClassifyRequest]:
        wide = self.config.sample_rate == 16000
        chunks = harness.speech()
        return [
            pb.StreamClassifyRequest(
                audio=pb.Audio(
                    sequence=number,
                    # Twice as many samples of two bytes: noise is good enough.
                    data=chunks[number % len(chunks)] * (4 if wide else 1),
                )
            )
            for number in range(first, last + 1)
        ]

    def show(self, resume_from: bytes, *, may_fail: bool) -> Ending:
        """Go on with a checkpoint, for half a second."""
        self.calls.forget_ended()
        more = self._audio(self.sequence, self.sequence + 6)
        return self.calls.try_call([self._first(resume_from), *more], may_fail=may_fail)

    def seal(self, packed: bytes) -> bytes:
        """What a replica would seal of this student."""
        return self.calls.sealer.seal(self.digest + packed)


@functools.cache
def makers() -> tuple[Maker, Maker]:
    """Calls at 8 and at 16 kHz, of this process."""
    return tuple(Maker(harness.shared_harness(), wide=wide) for wide in (False, True))


def seeds() -> list[bytes]:
    """Every mode on both calls; parts of a checkpoint that is right."""
    made = []
    for wide, maker in enumerate(makers()):
        plain = maker.memory.SerializeToString()
        packed = maker.content[len(maker.digest) :]
        parts = (maker.sealed, b"\1\0\5", maker.content, packed, plain)
        made += [bytes([wide, mode]) + part for mode, part in enumerate(parts)]
        made += [bytes([wide, 5, n]) + bytes([n, 1, n]) for n in range(20)]
    return made


def run(data: bytes) -> None:
    """One input: which call, how the checkpoint is made, and of what."""
    fuzz_input = FuzzInput(data)
    maker = makers()[fuzz_input.below(2)]
    mode = fuzz_input.choice(MODES)
    if mode == "forged":
        forged = fuzz_input.rest()
        must_fail = forged != maker.sealed
    elif mode == "damaged":
        forged = _damaged(maker.sealed, fuzz_input)
        must_fail = forged != maker.sealed
    else:
        forged, must_fail = maker.seal(_stripped(mode, maker, fuzz_input)), False
        if mode == "content":
            forged = maker.calls.sealer.seal(fuzz_input.rest())
    ending = maker.show(forged, may_fail=not must_fail)
    if must_fail:
        # Nothing at all in resume_from is a call that begins.
        assert ending.status in harness.REFUSED or not forged, ending
        assert not ending.finals or not forged


def _damaged(sealed: bytes, fuzz_input: FuzzInput) -> bytes:
    changed = bytearray(sealed)
    for _ in range(fuzz_input.below(4)):
        changed[fuzz_input.number(2) % len(changed)] ^= fuzz_input.number()
    end = fuzz_input.number(2)
    if fuzz_input.below(4) == 3:
        return bytes(changed) + fuzz_input.rest()
    return bytes(changed[: len(changed) - end % len(changed)])


def _stripped(mode: str, maker: Maker, fuzz_input: FuzzInput) -> bytes:
    """What stands compressed in the sealed message."""
    if mode in {"content", "compressed"}:
        return fuzz_input.rest()
    if mode == "memory":
        return zlib.compress(fuzz_input.rest(), 1)
    memory = inner.CallMemory.FromString(maker.memory.SerializeToString())
    for _ in range(1 + fuzz_input.below(4)):
        _change(memory, fuzz_input)
    try:
        return zlib.compress(memory.SerializeToString(), 1)
    except (ValueError, DecodeError):
        return b""


def _change(memory: inner.CallMemory, fuzz_input: FuzzInput) -> None:
    """Set one field to another value."""
    channel = memory.channels[0] if memory.channels else memory.channels.add()
    counters = [
        (memory, "sequence"),
        (memory, "position"),
        (memory, "lost"),
        (memory, "duplicates"),
        (memory, "next_update"),
        (channel, "speech"),
        (channel.gate, "voiced"),
        (channel.gate, "unvoiced"),
        (channel.gate, "position"),
    ]
    kind = fuzz_input.below(6)
    if kind == 0:
        message, name = fuzz_input.choice(counters)
        setattr(message, name, fuzz_input.choice(NUMBERS))
    elif kind == 1:
        message, name = fuzz_input.choice(counters)
        setattr(message, name, min(2**64 - 1, fuzz_input.number(8)))
    elif kind == 2:
        channel.held, channel.gate.speaking = bool(fuzz_input.below(2)), bool(fuzz_input.below(2))
        channel.index = fuzz_input.choice((0, 1, 2**32 - 1))
        if fuzz_input.below(2):
            memory.channels.add().CopyFrom(channel)
    elif kind == 3:
        del channel.posteriors[fuzz_input.below(4) :]
        for _ in range(fuzz_input.below(4)):
            row = channel.posteriors.add()
            row.probabilities.extend(
                fuzz_input.choice(PROBABILITIES) for _ in range(fuzz_input.below(6))
            )
    elif kind == 4:
        task = (
            channel.posteriors[fuzz_input.below(len(channel.posteriors))]
            if channel.posteriors
            else None
        )
        if task is not None and task.probabilities:
            at = fuzz_input.below(len(task.probabilities))
            task.probabilities[at] = fuzz_input.choice(PROBABILITIES)
    else:
        _change_bytes(memory, channel, fuzz_input)


def _change_bytes(
    memory: inner.CallMemory, channel: inner.ChannelMemory, fuzz_input: FuzzInput
) -> None:
    """Other memory of the VAD, the gate, the block, the student or the filters."""
    name = fuzz_input.choice(BYTES)
    holder = channel.gate if name in {"vad", "rest", "recent"} else channel
    if name in {"filters", "posteriors"}:
        memory.filters.append(fuzz_input.take(fuzz_input.choice(LENGTHS)))
        return
    data = bytearray(getattr(holder, name))
    if fuzz_input.below(4) == 3:
        data = bytearray(fuzz_input.take(1) * fuzz_input.choice(LENGTHS))
    for _ in range(fuzz_input.below(8)):
        if data:
            data[fuzz_input.number(2) % len(data)] = fuzz_input.number()
    setattr(holder, name, bytes(data))
