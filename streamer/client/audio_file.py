"""Read a sound file as the audio of a telephone call."""

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
"""Limit of length: a small compressed file can hold hours of silence."""
MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 1000, 768_000
"""Accepted sample rates in Hz; others indicate a damaged header."""
BLOCK_SAMPLES = 65536
"""Samples per read, because the length in a header is not reliable."""


class TelephoneCall(NamedTuple):
    """A file as a gateway would send it.

    Attributes:
        data: mu-law at 8 kHz, channels interleaved.
        channels: 1 or 2.
    """

    data: bytes
    channels: int

    @property
    def seconds(self) -> float:
        """Length of the call in seconds."""
        return len(self.data) / self.channels / SAMPLE_RATE

    def chunks(self, seconds: float) -> list[bytes]:
        """Split the audio into consecutive messages of at most ``seconds`` each."""
        size = max(1, round(seconds * SAMPLE_RATE)) * self.channels
        return [self.data[start : start + size] for start in range(0, len(self.data), size)]


def read_as_call(path: Path) -> TelephoneCall:
    """Read a file that soundfile supports, with 1 or 2 channels at 1 to 768 kHz, up to six hours.

    Memory depends on the audio in the file, at most :data:`MAX_SECONDS` of mu-law, not on its
    header.

    Raises:
        ValueError: the file cannot be read as a call; the message names file and value.
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
    if not MIN_SAMPLE_RATE <= file.samplerate <= MAX_SAMPLE_RATE:
        raise ValueError(
            f"{path}: {file.samplerate} Hz; a call has {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} Hz"
        )


def _blocks(path: Path, file: soundfile.SoundFile) -> Iterator[NDArray[np.float32]]:
    """Read the file in blocks, float32 [n, channels] in [-1, 1]."""
    remaining = MAX_SECONDS * file.samplerate
    buffer = np.empty((BLOCK_SAMPLES, file.channels), np.float32)
    while len(block := file.read(out=buffer)):
        remaining -= len(block)
        if remaining < 0:
            raise ValueError(
                f"{path}: more than {MAX_SECONDS / 3600:g} hours; no call is that long"
            )
        if not np.isfinite(block).all():
            raise ValueError(f"{path}: it holds samples that are not finite")
        # Only floating-point formats can exceed full scale.
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
