"""Other sound at the microphone: backgrounds, other people, music; and comfort noise."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np
import soundfile
import soxr

from streamer.audio.codec import SAMPLE_RATE, Samples, to_int16
from train.telephone import synthesis
from train.telephone.effect import Effect, TalkerSource
from train.telephone.measure import (
    FRAME,
    FULL_SCALE,
    active_frames,
    active_power,
    frame_powers,
    mix_at_snr,
)

SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".au", ".w64"})
"""File names that are taken for audio, in any case."""


class Background(Enum):
    """Kinds of synthesised background; see :mod:`train.telephone.synthesis`."""

    LINE = "line"
    HUM = "hum"
    STREET = "street"
    OFFICE = "office"
    CAR = "car"


_MAKERS = {
    Background.LINE: synthesis.line,
    Background.HUM: synthesis.hum,
    Background.STREET: synthesis.street,
    Background.OFFICE: synthesis.office,
    Background.CAR: synthesis.car,
}


@dataclass(frozen=True)
class Noise(Effect):
    """A synthesised background at a signal-to-noise ratio over the active speech.

    Quiet rooms leave 30 dB and more, offices 15-25, streets and cars 0-15; hiss and hum of a line
    in order 30 and more, of a bad one 20.

    Attributes:
        kind: of background.
        snr_db: active speech over noise, decibels.
    """

    kind: Background
    snr_db: float

    def __call__(self, samples: Samples, random: np.random.Generator) -> Samples:
        """Draw the noise and add it."""
        if not len(samples):
            return samples
        return mix_at_snr(samples, _MAKERS[self.kind](random, len(samples)), self.snr_db)


@dataclass(frozen=True)
class Recording(Effect):
    """A stretch of a recording, background or music, at a ratio over the active speech.

    Attributes:
        file: audio of any rate and number of channels; a short one is repeated.
        snr_db: active speech over recording, decibels.
    """

    file: Path
    snr_db: float

    def __call__(self, samples: Samples, random: np.random.Generator) -> Samples:
        """Draw where the stretch begins, and add it. ValueError for a file without audio."""
        if not len(samples):
            return samples
        return mix_at_snr(samples, stretch_of(self.file, random, len(samples)), self.snr_db)


@dataclass(frozen=True)
class Babble(Effect):
    """Several other people talking at once, as in a call centre or a café.

    Each at its own distance: levels differ by 3 dB (standard deviation). One talker alone is an
    interfering speaker (a television, somebody in the room), eight are a murmur.

    Attributes:
        source: gives one talker at a time.
        talkers: how many; 1-8.
        snr_db: active speech over their sum, decibels; 5-25.
    """

    source: TalkerSource
    talkers: int
    snr_db: float

    def __post_init__(self) -> None:
        """Refuse an empty room."""
        if self.talkers < 1:
            raise ValueError(f"talkers {self.talkers}, less than 1")

    def __call__(self, samples: Samples, random: np.random.Generator) -> Samples:
        """Draw the talkers and add their sum."""
        if not len(samples):
            return samples
        crowd = np.zeros(len(samples))
        for _ in range(self.talkers):
            talker = self.source(random, len(samples))
            gain = 10 ** (3 * random.standard_normal() / 20)
            power = active_power(talker)
            if power > 0.0:
                crowd += talker * (gain / np.sqrt(power))
        return mix_at_snr(samples, crowd, self.snr_db)


@dataclass(frozen=True)
class Music(Effect):
    """Synthesised music behind the speech: a radio in the room, hold music that bleeds in.

    Attributes:
        snr_db: active speech over music, decibels; 5-25.
    """

    snr_db: float

    def __call__(self, samples: Samples, random: np.random.Generator) -> Samples:
        """Draw the piece and add it."""
        if not len(samples):
            return samples
        return mix_at_snr(samples, synthesis.music(random, len(samples)), self.snr_db)


@dataclass(frozen=True)
class ComfortNoise(Effect):
    """Pauses replaced by artificial noise, as senders do that are silent when the talker is.

    Silence suppression in VoIP (RFC 3389, ITU-T G.711 Appendix II): the background vanishes in
    pauses and a steady, smoother noise takes its place. 60 ms after speech still pass.

    Attributes:
        db: level of the noise, dB relative to full scale; -75 to -50.
        slope: of its spectrum, power as 1 / f^slope; 0-1.5.
    """

    db: float
    slope: float = 0.5

    def __call__(self, samples: Samples, random: np.random.Generator) -> Samples:
        """Find the pauses by level and draw the noise for them."""
        if not len(samples):
            return samples
        active = active_frames(frame_powers(samples))[0]
        extended = active.copy()
        for after in range(1, 4):
            extended[after:] |= active[:-after]
        pause = ~np.repeat(extended, FRAME)[: len(samples)]
        noise = synthesis.coloured(random, len(samples), self.slope)
        noise *= 10 ** (self.db / 20) * FULL_SCALE / max(float(noise.std()), 1e-9)
        return np.where(pause, to_int16(noise), samples)


def recordings_in(folder: Path, field: str) -> tuple[Path, ...]:
    """The audio files below a folder, sorted, so that they are the same in every process.

    Raises:
        ValueError: there is none; names the field and the folder.
    """
    files = tuple(
        sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    )
    if not files:
        raise ValueError(f"{field}: no audio file below {folder}")
    return files


def stretch_of(file: Path, random: np.random.Generator, n: int) -> Samples:
    """n samples at 8 kHz from a random place in a file: mixed to mono, repeated if too short.

    Raises:
        ValueError: the file holds no audio.
        soundfile.LibsndfileError: it cannot be read.
    """
    with soundfile.SoundFile(file) as audio:
        if not audio.frames:
            raise ValueError(f"{file}: no audio")
        needed = -(-n * audio.samplerate // SAMPLE_RATE) + 1
        audio.seek(int(random.integers(0, max(1, audio.frames - needed + 1))))
        wave = audio.read(needed, dtype="float32", always_2d=True).mean(axis=1)
        if audio.samplerate != SAMPLE_RATE:
            wave = soxr.resample(wave, audio.samplerate, SAMPLE_RATE)
    return to_int16(np.resize(wave, n) * (FULL_SCALE - 1))
