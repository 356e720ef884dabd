"""Any sound file as the bytes of a telephone call."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import soundfile
import soxr

from streamer.codec import SAMPLE_RATE, Encoding, encode, to_int16


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
    """Read any soundfile-readable file of 1 or 2 channels, at any rate.

    Raises:
        ValueError: no sound file, or more than 2 channels; the message names file and value.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{path}: not a readable sound file: {error.error_string}") from error
    channels = samples.shape[1]
    if channels > 2:  # noqa: PLR2004 - a call has two sides
        raise ValueError(f"{path}: {channels} channels; a call has 1 or 2")
    if rate != SAMPLE_RATE:
        samples = soxr.resample(samples, rate, SAMPLE_RATE, quality="HQ")
    return TelephoneCall(encode(to_int16(samples * 32768), Encoding.MULAW), channels)
