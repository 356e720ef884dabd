"""Audio of an utterance as int16 at the rate one asks for, from a file or an archive's member."""

from __future__ import annotations

import io
from pathlib import Path
from typing import BinaryIO, NamedTuple

import soundfile
import soxr

from streamer.audio.codec import Samples, to_int16
from train.corpora.archive import (
    MissingFileError,
    UnreadableFileError,
    read_bytes,
    split_source,
)


class AudioInfo(NamedTuple):
    """Header of a file: Hz, samples per channel, channels."""

    rate: int
    frames: int
    channels: int


def open_audio(source: str | BinaryIO) -> BinaryIO:
    """The encoded file, seekable.

    Args:
        source: a path, ``ARCHIVE.zip!MEMBER``, or a file already open, which comes back as it is.

    Raises:
        MissingFileError: no such file or member.
        UnreadableFileError: broken archive, encrypted member, no permission.
    """
    if not isinstance(source, str):
        return source
    path, member = split_source(source)
    if member:
        return io.BytesIO(read_bytes(source))
    try:
        return Path(path).open("rb")
    except FileNotFoundError as error:
        raise MissingFileError("no such file") from error
    except OSError as error:
        raise UnreadableFileError(str(error)) from error


def info(source: str | BinaryIO) -> AudioInfo:
    """Rate, length and channels; raises as :func:`open_audio`, also for what is no audio."""
    with open_audio(source) as file:
        try:
            header = soundfile.info(file)
        except soundfile.SoundFileError as error:
            raise UnreadableFileError(_fault(error)) from error
    return AudioInfo(header.samplerate, header.frames, header.channels)


def read_audio(
    source: str | BinaryIO, rate: int, start_s: float = 0.0, duration_s: float | None = None
) -> Samples:
    """First channel of a file, or of a stretch of it, int16 [n].

    Args:
        source: a path of anything soundfile reads, ``ARCHIVE.zip!MEMBER``, or an open file,
            which is closed afterwards.
        rate: Hz of the result; other rates are resampled.
        start_s: where to begin, seconds.
        duration_s: how much to read, seconds; None reads to the end. Less comes back where the
            file is shorter.

    Raises:
        MissingFileError: no such file or member.
        UnreadableFileError: broken archive, or no audio. Both are OSErrors.
    """
    with open_audio(source) as file:
        try:
            with soundfile.SoundFile(file) as audio:
                source_rate = audio.samplerate
                audio.seek(min(round(start_s * source_rate), audio.frames))
                frames = -1 if duration_s is None else round(duration_s * source_rate)
                samples = audio.read(frames, dtype="float32", always_2d=True)[:, 0]
        except soundfile.SoundFileError as error:
            raise UnreadableFileError(_fault(error)) from error
    if source_rate != rate:
        samples = soxr.resample(samples, source_rate, rate, quality="HQ")
    return to_int16(samples * 32768)


def resample(samples: Samples, from_rate: int, to_rate: int) -> Samples:
    """int16 [n] at one rate in Hz to int16 at another, exactly the input where they are equal."""
    if from_rate == to_rate:
        return samples
    wide = samples.astype("float32")
    return to_int16(soxr.resample(wide, from_rate, to_rate, quality="HQ"))


def _fault(error: soundfile.SoundFileError) -> str:
    """libsndfile's own words: the rest of the message is the address of a Python object."""
    return str(getattr(error, "error_string", error))
