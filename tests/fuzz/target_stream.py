"""The service, fed with calls of a small grammar: mostly sensible, with values at the edge."""

from __future__ import annotations

import itertools

import gateway
import harness
from inputs import FuzzInput

from streamer.audio.codec import Encoding, decode, encode
from streamer.rpc import voicecohort_pb2 as pb

MOST = 40
"""Steps of one input."""
ENCODINGS = (1, 2, 3, 1, 2, 3, 1, 0, 7)
RATES = (8000, 16000, 8000, 16000, 8000, 0, 8001, 2**32 - 1)
MILLISECONDS = (100, 500, 0, 60_000, 99, 60_001, -1, 2**40)
CHANNELS = ((), (0,), (1,), (0, 1), (0, 0), (2,), (2**32 - 1,))
SEQUENCES = (0, 1, 2, 2**63, 2**64 - 1)
LENGTHS = (800, 160, 1, 2, 3, 4, 0, 1600, 799, 8000)
RARE = ("empty", "config", "undecodable", "pause", "pause", "stall", "cancel")
STEPS = ("audio",) * 12 + ("control",) * 3 + RARE
ACTIONS = ("hold", "resume", "discard", "hold", "resume", "finish", "")


def seeds() -> list[bytes]:
    """Inputs that make calls of every encoding and layout: zeros mean the first choice."""
    layouts = itertools.product(range(3), range(2), range(4))
    made = [bytes(layout) + bytes(40) for layout in layouts]
    made += [bytes(20) + bytes([STEPS.index(kind)]) + bytes(20) for kind in dict.fromkeys(STEPS)]
    return made


def run(data: bytes) -> None:
    """One input: the config, then what each step is and holds."""
    fuzz_input = FuzzInput(data)
    writer = _Writer(fuzz_input)
    script: list[gateway.Step] = [writer.config()] if fuzz_input.below(16) != 15 else []
    while fuzz_input.left and len(script) < MOST:
        script.append(getattr(writer, fuzz_input.choice(STEPS))())
    harness.shared_harness().try_call(script)


class _Writer:
    """Makes the steps of one call."""

    def __init__(self, fuzz_input: FuzzInput) -> None:
        self._input = fuzz_input
        self._sequence = 0
        self._heard = 0
        self._width = 1

    def config(self) -> pb.StreamClassifyRequest:
        m = self._input
        config = pb.StreamConfig(encoding=m.choice(ENCODINGS), sample_rate=m.choice(RATES))
        layout = m.below(8)
        for _ in range((0, 1, 2, 2, 2, 1, 3, 0)[layout]):
            config.channels.add(role=m.below(4), ignored=m.below(4) == 3)
        config.speech_events = bool(m.below(2))
        if m.below(2):
            config.update_interval.FromMilliseconds(m.choice(MILLISECONDS))
        if m.below(4) == 3:
            config.min_speech.FromMilliseconds(m.choice(MILLISECONDS))
        if m.below(8) == 7:
            config.checkpoint_interval.FromMilliseconds(m.choice((1000, *MILLISECONDS)))
        if m.below(16) == 15:
            config.resume_from = m.piece()
        if m.below(8) == 7:
            config.call_id = m.take(m.number()).decode("latin-1")
        self._width = max(1, len(config.channels)) * (2 if config.encoding == 3 else 1)
        return pb.StreamClassifyRequest(config=config)

    def audio(self) -> pb.StreamClassifyRequest:
        m = self._input
        kind = m.below(16)
        if kind < 12:
            self._sequence += 1
        elif kind == 12:
            self._sequence += m.below(70)
        elif kind == 13:
            self._sequence = m.choice(SEQUENCES)
        elif kind == 14:
            self._sequence = max(0, self._sequence - 1)
        audio = pb.Audio(sequence=self._sequence % 2**64, data=self._sound())
        if m.below(8) == 7:
            offset = m.choice((0, 1, 800, 100_000, -1, 2**40))
            audio.start_sample = max(0, self._heard + offset)
        self._heard += len(audio.data) // self._width
        return pb.StreamClassifyRequest(audio=audio)

    def _sound(self) -> bytes:
        m = self._input
        length = m.choice(LENGTHS) * (self._width if m.below(16) != 15 else 1)
        kind = m.below(8)
        if kind < 4:
            talk = decode(b"".join(harness.speech()), Encoding.MULAW)[m.below(40) * 80 :]
            talk = talk.repeat(max(1, self._width // 2))
            sound = encode(talk, Encoding.LINEAR16 if self._width % 2 == 0 else Encoding.MULAW)
        elif kind < 6:
            sound = m.take(1) * length
        elif kind == 6:
            # What makes the fake student fail, if speech begins with it.
            sound = (23456 + m.below(3)).to_bytes(2, "little") * (length // 2)
        else:
            sound = m.take(length)
        return (sound * (length // max(1, len(sound)) + 1))[:length]

    def control(self) -> pb.StreamClassifyRequest:
        control = pb.Control(channels=self._input.choice(CHANNELS))
        action = self._input.choice(ACTIONS)
        if action:
            getattr(control, action).SetInParent()
        return pb.StreamClassifyRequest(control=control)

    def empty(self) -> pb.StreamClassifyRequest:
        return pb.StreamClassifyRequest()

    def undecodable(self) -> type[gateway.Undecodable]:
        return gateway.Undecodable

    def pause(self) -> type[gateway.Pause]:
        return gateway.Pause

    def stall(self) -> type[gateway.Stall]:
        return gateway.Stall

    def cancel(self) -> type[gateway.Cancel]:
        return gateway.Cancel
