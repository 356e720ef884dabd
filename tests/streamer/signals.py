"""Audio of calls: as bytes, in chunks, and its posteriors."""

from __future__ import annotations

import itertools

import numpy as np
import soxr

from streamer.audio.codec import SAMPLE_RATE, Decoder, encode, to_int16
from streamer.audio.speech_gate import speech_of
from streamer.session.channel import FRAME_SAMPLES


def wire(channels, encoding, sample_rate=SAMPLE_RATE):
    """int16 signals at 8 kHz to the bytes of a call, interleaved."""
    if sample_rate != SAMPLE_RATE:
        channels = [
            to_int16(soxr.resample(c.astype(np.float64), SAMPLE_RATE, sample_rate))
            for c in channels
        ]
    return encode(np.stack(channels, axis=1), encoding)


def cut(data, sizes, frame_bytes=1, most=None):
    """Bytes in chunks of so many samples, over and over; after ``most`` chunks of a second."""
    chunks, start = [], 0
    for size in itertools.cycle(sizes):
        if start >= len(data):
            return chunks
        length = (size if most is None or len(chunks) < most else SAMPLE_RATE) * frame_bytes
        chunks.append(data[start : start + length])
        start += length
    raise AssertionError("no sizes")


def direct(student, samples):
    """Posteriors and speech samples of an utterance, by a loop over its speech."""
    meta = student.metadata
    speech = speech_of(samples)
    memory = meta.fresh(1)
    posteriors, speech_samples = None, 0
    for start in range(0, len(speech), meta.block):
        block = speech[start : start + meta.block]
        if len(block) < FRAME_SAMPLES:
            break
        padded = np.zeros((1, meta.block), np.float32)
        padded[0, : len(block)] = block / np.float32(32768)
        tasks, memory = student.step(padded, np.array([len(block)]), memory)
        posteriors = [task[0].tolist() for task in tasks]
        speech_samples += len(block) // FRAME_SAMPLES * FRAME_SAMPLES
    return posteriors, speech_samples


def decoded(data, encoding, sample_rate, channels):
    """Samples of each channel of a whole call, decoded in one go."""
    return Decoder(encoding, sample_rate, channels).push(data)
