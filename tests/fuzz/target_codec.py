"""Codec and speech gate: any bytes in any chunks, moved in between, give the same samples."""

from __future__ import annotations

import itertools

import numpy as np
from inputs import FuzzInput

from streamer.audio.codec import SAMPLE_RATES, Decoder, Encoding, Halver, decode, encode
from streamer.audio.speech_gate import SpeechGate

ENCODINGS = tuple(Encoding)
CHANNELS = (1, 2, 3)


def seeds() -> list[bytes]:
    """Every encoding, rate and number of channels, with a ramp that is cut in different ways."""
    ramp = np.linspace(-32000, 32000, 400).astype(np.int16)
    return [
        bytes([encoding, rate, channels, 3, 7, 160, 1]) + encode(ramp, ENCODINGS[encoding])
        for encoding in range(3)
        for rate in range(2)
        for channels in range(2)
    ]


def run(data: bytes) -> None:
    """One input: encoding, rate, channels, sizes of the chunks, then the audio."""
    fuzz_input = FuzzInput(data)
    encoding, rate = fuzz_input.choice(ENCODINGS), fuzz_input.choice(SAMPLE_RATES)
    channels = fuzz_input.choice(CHANNELS)
    sizes = [fuzz_input.number() for _ in range(4)]
    audio = fuzz_input.rest()
    decoder = Decoder(encoding, rate, channels)
    frame = decoder.frame_bytes
    whole = len(audio) // frame * frame
    if whole != len(audio):
        try:
            decoder.push(audio)
        except ValueError as error:
            message = str(error)
        else:
            raise AssertionError("half a sample was taken")
        assert str(len(audio)) in message
    at_once = decoder.push(audio[:whole])  # what was refused must have left no trace
    assert len({len(samples) for samples in at_once}) == 1
    assert all(samples.dtype == np.int16 for samples in at_once)
    length = whole // frame
    assert len(at_once[0]) == (length if rate == 8000 else -(-length // 2))
    parts = list(_chunked(encoding, rate, channels, audio[:whole], sizes))
    cut = [np.concatenate(part) for part in zip(*parts, strict=True)]
    for one, other in zip(at_once, cut, strict=True):
        _same(one, other)
    _round_trip(audio, encoding)
    _gate(at_once[0], sizes)
    _halver(at_once[-1], sizes)


def _same(one: np.ndarray, other: np.ndarray) -> None:
    assert np.array_equal(one, other), (one.tolist(), other.tolist())


def _cuts(length: int, sizes: list[int]) -> list[slice]:
    """Consecutive pieces of the given sizes, empty ones among them; the last takes the rest."""
    edges = [0]
    for size in sizes:
        edges.append(min(length, edges[-1] + size))
    edges.append(length)
    return [slice(*pair) for pair in itertools.pairwise(edges)]


def _chunked(encoding, rate, channels, audio, sizes):
    decoder = Decoder(encoding, rate, channels)
    frame = decoder.frame_bytes
    for cut in _cuts(len(audio) // frame, sizes):
        yield decoder.push(audio[cut.start * frame : cut.stop * frame])
        moved = Decoder(encoding, rate, channels)  # as a call that goes on elsewhere
        moved.restore(decoder.snapshot())
        decoder = moved


def _round_trip(audio: bytes, encoding: Encoding) -> None:
    audio = audio[: len(audio) // encoding.width * encoding.width]
    samples = decode(audio, encoding)
    again = encode(samples, encoding)
    assert len(again) == len(audio)
    _same(decode(again, encoding), samples)
    for other in ENCODINGS:  # all decoded audio can be encoded
        assert len(encode(samples, other)) == len(samples) * other.width


def _halver(samples: np.ndarray, sizes: list[int]) -> None:
    whole, parts = Halver(), Halver()
    at_once = whole.push(samples)
    assert len(at_once) == -(-len(samples) // 2)
    cut = [parts.push(samples[part]) for part in _cuts(len(samples), sizes)]
    _same(at_once, np.concatenate(cut))
    _same(whole.history, parts.history)


def _gate(samples: np.ndarray, sizes: list[int]) -> None:
    def gated(parts):
        gate, results = SpeechGate(), []
        for part in parts:
            results.append(gate.push(part))
            moved = SpeechGate()
            moved.restore(gate.snapshot())
            gate = moved
        results.append(gate.flush())
        speech = b"".join(speech for speech, _ in results)
        return np.frombuffer(speech, np.int16), [event for _, events in results for event in events]

    one, events = gated([samples])
    other, same_events = gated([samples[part] for part in _cuts(len(samples), sizes)])
    _same(one, other)
    assert events == same_events
    assert [event.started for event in events] == [True, False] * (len(events) // 2)
    assert len(one) <= len(samples)
