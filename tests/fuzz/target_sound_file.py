"""The client's reader of sound files: any bytes are a call or a ValueError, in bounded memory."""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import resource
import shutil
import tempfile
from pathlib import Path

import numpy as np
import soundfile

from streamer.client.audio_file import read_as_call

ROOM = 1 << 30
"""Bytes of address space that one file may take besides what the process has."""
FORMATS = (
    ("WAV", "PCM_16"),
    ("WAV", "PCM_U8"),
    ("WAV", "ULAW"),
    ("WAV", "ALAW"),
    ("WAV", "FLOAT"),
    ("WAV", "DOUBLE"),
    ("WAV", "IMA_ADPCM"),
    ("WAV", "MS_ADPCM"),
    ("WAV", "GSM610"),
    ("WAVEX", "PCM_24"),
    ("RF64", "PCM_16"),
    ("W64", "PCM_16"),
    ("AU", "ULAW"),
    ("AIFF", "PCM_16"),
    ("CAF", "ALAC_16"),
    ("FLAC", "PCM_16"),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
    ("MP3", "MPEG_LAYER_III"),
    ("NIST", "PCM_16"),
    ("VOC", "PCM_16"),
    ("IRCAM", "PCM_16"),
    ("SVX", "PCM_16"),
    ("PAF", "PCM_16"),
    ("MAT5", "PCM_16"),
)
MEMORY = "/dev/shm"  # noqa: S108 - no disk for a million files
FOLDER = Path(tempfile.mkdtemp(prefix="fuzz", dir=MEMORY if Path(MEMORY).is_dir() else None))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)


def seeds() -> list[bytes]:
    """A short file of every format, one or two channels, at 8 kHz and other rates."""
    made = []
    for number, (form, subtype) in enumerate(FORMATS):
        channels, rate = 1 + number % 2, (8000, 16000, 48000)[number % 3]
        samples = 0.3 * np.sin(np.arange(400 * channels).reshape(-1, channels) / 5)
        file = io.BytesIO()
        with contextlib.suppress(soundfile.LibsndfileError, ValueError):  # of another libsndfile
            soundfile.write(file, samples, rate, format=form, subtype=subtype)
            made.append(file.getvalue())
    return made


def run(data: bytes) -> None:
    """One input: the file."""
    path = FOLDER / f"{os.getpid()}"
    path.write_bytes(data)
    with _little_memory():
        try:
            call = read_as_call(path)
        except ValueError as error:
            message = str(error)
            assert message.startswith(f"{path}: "), message
            return
    assert call.channels in (1, 2)
    assert len(call.data) % call.channels == 0


@contextlib.contextmanager
def _little_memory():
    """Make memory beyond :data:`ROOM` an error: a promise of gigabytes must not be believed."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
