"""Any sound file as the bytes of a telephone call."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from streamer.audio.codec import SAMPLE_RATE, Encoding, encode, to_int16

MAX_SECONDS = 6 * 3600.0
"""A longer file is no call: a few bytes of it could fill the memory with silence."""
RATES = (1000, 768_000)
"""Lowest and highest sample rate in Hz; others are the mark of a damaged header."""
BLOCK = 65536
"""Samples that are read at a time: a header may promise any number, and is not believed."""


class TelephoneCall(NamedTuple):
    """A file as a gateway would deliver it.

    Attributes:
        data: mu-law, channels interleaved, 8 kHz.
        channels: 1 or 2.
    """

    data: bytes
    channels: int

    @property
    def seconds(self) -> float:
        """Length of the call."""
        return len(self.data) / self.channels / SAMPLE_RATE

    def chunks(self, seconds: float) -> list[bytes]:
        """Consecutive messages of at most ``seconds`` each."""
        size = max(1, round(seconds * SAMPLE_RATE)) * self.channels
        return [self.data[start : start + size] for start in range(0, len(self.data), size)]


def read_as_call(path: Path) -> TelephoneCall:
    """Read any soundfile-readable file of 1 or 2 channels and 1 to 768 kHz, up to six hours.

    Memory follows what the file holds, at most :data:`MAX_SECONDS` of mu-law, not what its header
    promises.

    Raises:
        ValueError: no sound file, or one that is no call; the message names file and value.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        with soundfile.SoundFile(path) as file:
            _check(path, file)
            data = bytearray()
            for block in _at_8_khz(path, file):
                data += encode(to_int16(block * 32768), Encoding.MULAW)
            return TelephoneCall(bytes(data), file.channels)
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{path}: not a readable sound file: {error.error_string}") from error


def _check(path: Path, file: soundfile.SoundFile) -> None:
    if file.channels not in (1, 2):
        raise ValueError(f"{path}: {file.channels} channels; a call has 1 or 2")
    if not RATES[0] <= file.samplerate <= RATES[1]:
        raise ValueError(f"{path}: {file.samplerate} Hz; a call has {RATES[0]} to {RATES[1]} Hz")


def _blocks(path: Path, file: soundfile.SoundFile) -> Iterator[NDArray[np.float32]]:
    """All that the file holds, float32 [n, channels] in [-1, 1]."""
    left = MAX_SECONDS * file.samplerate
    buffer = np.empty((BLOCK, file.channels), np.float32)
    while len(block := file.read(out=buffer)):
        left -= len(block)
        if left < 0:
            raise ValueError(
                f"{path}: more than {MAX_SECONDS / 3600:g} hours; no call is that long"
            )
        if not np.isfinite(block).all():
            raise ValueError(f"{path}: it holds samples that are not finite")
        # Only formats of floating point can exceed full scale.
        yield np.clip(block, -1.0, 1.0)


def _at_8_khz(path: Path, file: soundfile.SoundFile) -> Iterator[NDArray[np.float32]]:
    if file.samplerate == SAMPLE_RATE:
        yield from _blocks(path, file)
        return
    resampler: Any = soxr.ResampleStream(
        file.samplerate, SAMPLE_RATE, file.channels, dtype="float32", quality="HQ"
    )
    for block in _blocks(path, file):
        yield resampler.resample_chunk(block)
    yield resampler.resample_chunk(np.empty((0, file.channels), np.float32), last=True)
