"""What the trunk and the telephone set leave of the spectrum."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import cos, pi, sin, sqrt

import numpy as np
from numpy.typing import NDArray

from streamer.audio.codec import SAMPLE_RATE, Samples, to_int16
from train.telephone.effect import Effect

Sections = NDArray[np.float64]
"""Second-order sections [k, 6] as scipy takes them."""


@lru_cache(maxsize=4096)
def _band_sections(low: float, high: float, order: int) -> Sections:
    from scipy.signal import ellip  # noqa: PLC0415 - takes a second, and only calls need it

    sections: Sections = ellip(
        order, 0.3, 42.0, (low, high), "bandpass", fs=SAMPLE_RATE, output="sos"
    )
    return sections


def _filtered(samples: Samples, sections: Sections) -> Samples:
    from scipy.signal import sosfilt  # noqa: PLC0415

    return to_int16(sosfilt(sections, samples.astype(np.float64)))


@dataclass(frozen=True)
class TrunkBand(Effect):
    """The band of a PCM trunk: about 300-3400 Hz.

    Frequency-division multiplex gave each call 4 kHz, and ITU-T G.712 keeps its filters for PCM:
    flat to 300 and 3400 Hz, steep beyond, mains hum rejected. Channel-bank filters were elliptic,
    hence this one: 0.3 dB ripple, at least 42 dB down in the stop band, which starts at 0.55 of
    ``low`` and half-way from ``high`` to 4 kHz. IP phones have no such filter: leave it out.

    Attributes:
        low: lower edge, Hz; 180-350 among real trunks.
        high: upper edge, Hz; 3200-3600.
        order: of the low-pass it is made from; 4-6.
    """

    low: float = 300.0
    high: float = 3400.0
    order: int = 5

    def __post_init__(self) -> None:
        """Refuse a band that is none."""
        if not 0 < self.low < self.high < SAMPLE_RATE / 2:
            raise ValueError(f"band {self.low}-{self.high} Hz, not rising within 0-4000")

    def __call__(self, samples: Samples, random: np.random.Generator) -> Samples:  # noqa: ARG002
        """Filter; nothing is drawn."""
        if not len(samples):
            return samples
        sections = _band_sections(self.low, self.high, self.order)
        return _filtered(samples, sections)


@dataclass(frozen=True)
class Handset(Effect):
    """The frequency response of microphone and set, at the sending side.

    The send response of ITU-T P.48 (intermediate reference system) falls below 300 Hz and rises
    by about 8 dB from 500 Hz to 3 kHz; the defaults follow it within 1 dB. Old carbon capsules
    rise more, headsets and IP phones (ITU-T P.310, ETSI ES 202 737) are nearly flat, and a long
    copper loop takes away at the top, so the tilt may fall too.

    Attributes:
        low_cut: second-order high-pass, Hz at -3 dB; 60 (flat set) to 400 (carbon).
        tilt_db: gain of the top over the bottom, decibels, shelf about 1.3 kHz; -6 to 10.
        presence_db: resonance of capsule and cavity, decibels; -3 to 8.
        presence_hz: where it sits; 1500-3300 Hz.
    """

    low_cut: float = 380.0
    tilt_db: float = 8.0
    presence_db: float = 1.0
    presence_hz: float = 2500.0

    def sections(self) -> Sections:
        """The response as second-order sections [3, 6]; gain is 1 at 1 kHz."""
        stack = np.array(
            [
                _biquad("highpass", self.low_cut, 0.0, 1 / sqrt(2)),
                _biquad("shelf", 1300.0, self.tilt_db, 0.5),
                _biquad("peak", self.presence_hz, self.presence_db, 1.5),
            ]
        )
        z = np.exp(-2j * pi * 1000 / SAMPLE_RATE * np.arange(3))
        gain = np.abs(np.prod(stack[:, :3] @ z / (stack[:, 3:] @ z)))
        stack[0, :3] /= gain
        return stack

    def __call__(self, samples: Samples, random: np.random.Generator) -> Samples:  # noqa: ARG002
        """Filter; nothing is drawn."""
        if not len(samples):
            return samples
        return _filtered(samples, self.sections())


def _biquad(kind: str, hertz: float, gain_db: float, q: float) -> list[float]:
    """One section by the bilinear transform of the usual analogue prototypes.

    With s' = s / (2 pi ``hertz``) and A = sqrt(gain): ``highpass`` s'^2 / (s'^2 + s'/q + 1);
    ``peak`` (s'^2 + s' A/q + 1) / (s'^2 + s'/(A q) + 1);
    ``shelf`` A (A s'^2 + sqrt(A) s'/q + 1) / (s'^2 + sqrt(A) s'/q + A).
    """
    a = 10 ** (gain_db / 40)
    root = sqrt(a)
    numerator, denominator = {
        "highpass": ((1.0, 0.0, 0.0), (1.0, 1 / q, 1.0)),
        "peak": ((1.0, a / q, 1.0), (1.0, 1 / (a * q), 1.0)),
        "shelf": ((a * a, a * root / q, a), (1.0, root / q, a)),
    }[kind]
    # s' -> (1 - z^-1) / (t (1 + z^-1)), t = tan(w / 2); multiplied out by (t (1 + z^-1))^2.
    w = 2 * pi * hertz / SAMPLE_RATE
    t = sin(w) / (1 + cos(w))

    def bilinear(two: float, one: float, zero: float) -> list[float]:
        return [
            two + one * t + zero * t * t,
            2 * (zero * t * t - two),
            two - one * t + zero * t * t,
        ]

    above, below = bilinear(*numerator), bilinear(*denominator)
    return [value / below[0] for value in above + below]
