"""Signalling at the edges of a call: keys and ringing.

These make the output longer than the input: a tone, a short pause, then the speech (or the other
way round), so the speech itself stays whole. :attr:`EdgeTone.lead` tells where it begins.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamer.audio.codec import SAMPLE_RATE, Samples, to_int16
from train.telephone.effect import Effect, samples_of
from train.telephone.measure import FULL_SCALE

KEYS = ("123A", "456B", "789C", "*0#D")
"""The key pad of ITU-T Q.23, row by row."""
_EDGE = samples_of(0.004)
LOW_HZ = (697, 770, 852, 941)
HIGH_HZ = (1209, 1336, 1477, 1633)
RING_BACK: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "europe": ((425.0,), (1.0, 4.0)),
    "north-america": ((440.0, 480.0), (2.0, 4.0)),
    "united-kingdom": ((400.0, 450.0), (0.4, 0.2, 0.4, 2.0)),
    "japan": ((384.0, 400.0, 416.0), (1.0, 2.0)),
    "france": ((440.0,), (1.5, 3.5)),
    "australia": ((400.0, 425.0, 450.0), (0.4, 0.2, 0.4, 2.0)),
}
"""Ring-back by country: Hz sounding together, seconds on and off in turn (ITU-T E.180, Suppl. 2).
Japan's 400 Hz is modulated by 16 Hz, hence its three tones."""


@dataclass(frozen=True)
class EdgeTone(Effect):
    """A tone before or after the speech.

    Attributes:
        before: at the beginning rather than the end.
        level_db: of each frequency, root mean square, dB relative to full scale.
        pause: between tone and speech, seconds.
    """

    before: bool
    level_db: float
    pause: float

    @abstractmethod
    def wave(self) -> NDArray[np.float64]:
        """The tone alone, at 16-bit scale."""

    @property
    def lead(self) -> int:
        """Samples put before the speech."""
        return len(self.wave()) + samples_of(self.pause) if self.before else 0

    def __call__(self, samples: Samples, random: np.random.Generator) -> Samples:  # noqa: ARG002
        """int16 [n] -> [m], m > n; nothing is drawn."""
        tone, pause = to_int16(self.wave()), np.zeros(samples_of(self.pause), np.int16)
        parts = (tone, pause, samples) if self.before else (samples, pause, tone)
        return np.concatenate(parts)

    def _tones(self, hertz: tuple[float, ...], seconds: float) -> NDArray[np.float64]:
        t = np.arange(samples_of(seconds)) / SAMPLE_RATE
        amplitude = np.sqrt(2) * FULL_SCALE * 10 ** (self.level_db / 20)
        wave: NDArray[np.float64] = amplitude * sum(np.sin(2 * np.pi * f * t) for f in hertz)
        return wave

    @staticmethod
    def _softened(sounding: NDArray[np.bool_]) -> NDArray[np.float64]:
        """A gain that opens and closes within 4 ms: generators do not click."""
        kernel = np.hanning(2 * _EDGE + 3)[1:-1]
        inner = np.convolve(np.pad(sounding, _EDGE), kernel / kernel.sum(), "valid")
        # One half at the edge itself, one where the kernel lies wholly within.
        gain: NDArray[np.float64] = np.maximum(0.0, 2 * inner - 1)
        return gain


@dataclass(frozen=True)
class Dtmf(EdgeTone):
    """Keys pressed in a menu (ITU-T Q.23), one frequency of the row and one of the column.

    Callers arrive out of "press 1 for ..." and some press on while they speak. At least 40 ms must
    be detected (ITU-T Q.24); phones send 50-250 ms with pauses alike.

    Attributes:
        digits: of ``0-9 A-D * #``, at least one.
        on: seconds of each key; 0.05-0.25.
        off: seconds between keys; 0.05-0.25.
        twist_db: how far the column is above the row; Q.24 tolerates -4 to 8, phones send 0-4.
    """

    digits: str = "1"
    on: float = 0.1
    off: float = 0.1
    twist_db: float = 2.0

    def __post_init__(self) -> None:
        """Refuse keys that no telephone has."""
        if self.on <= 0 or self.off < 0:
            raise ValueError(f"DTMF {self.on} s on and {self.off} s off, not above 0")
        if not self.digits or not set(self.digits) <= set("".join(KEYS)):
            raise ValueError(f"DTMF digits {self.digits!r}, not some of {''.join(KEYS)}")

    def wave(self) -> NDArray[np.float64]:
        """Key, pause, key, and so on; no pause at the end."""
        silence = np.zeros(samples_of(self.off))
        parts: list[NDArray[np.float64]] = []
        for digit in self.digits:
            row = next(number for number, keys in enumerate(KEYS) if digit in keys)
            low, high = LOW_HZ[row], HIGH_HZ[KEYS[row].index(digit)]
            key = self._tones((low,), self.on)
            key += 10 ** (self.twist_db / 20) * self._tones((high,), self.on)
            parts += [key * self._softened(np.ones(len(key), np.bool_)), silence]
        return np.concatenate(parts[:-1])


@dataclass(frozen=True)
class RingBack(EdgeTone):
    """Ring-back tone, still on the line when the called party answers.

    Outbound campaigns and recorders that start at the call set-up; also transfers. Frequencies and
    cadence by country (:data:`RING_BACK`), levels by ITU-T E.180: about -10 dBm0, give or take.

    Attributes:
        country: a key of :data:`RING_BACK`.
        seconds: of the cadence, from its start.
    """

    country: str = "europe"
    seconds: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a country we know no tone of."""
        if self.seconds <= 0:
            raise ValueError(f"ring-back of {self.seconds} s, not above 0")
        if self.country not in RING_BACK:
            raise ValueError(f"ring-back country {self.country!r}, not one of {list(RING_BACK)}")

    def wave(self) -> NDArray[np.float64]:
        """The first ``seconds`` of the cadence."""
        hertz, cadence = RING_BACK[self.country]
        wave = self._tones(hertz, self.seconds)
        edges = np.concatenate([[0.0], np.cumsum(cadence)])
        t = (np.arange(len(wave)) / SAMPLE_RATE) % edges[-1]
        sounding = (np.searchsorted(edges, t, side="right") - 1) % 2 == 0
        return wave * self._softened(sounding)
