"""How loud, how steady and how overdriven."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from streamer.audio.codec import SAMPLE_RATE, Samples, to_int16
from train.telephone.effect import Effect
from train.telephone.measure import FULL_SCALE, active_power


@dataclass(frozen=True)
class Level(Effect):
    """The level at which the call arrives.

    ITU-T P.56 active level; -26 dB relative to full scale is the network's nominal, and sets,
    loops and habits spread it from -38 (far from the microphone) to -14 (shouting). Silence stays
    silence.

    Attributes:
        db: active speech level to reach, dB relative to full scale.
    """

    db: float = -26.0

    def __call__(self, samples: Samples, random: np.random.Generator) -> Samples:  # noqa: ARG002
        """Scale, saturating; nothing is drawn."""
        power = active_power(samples)
        if power == 0.0:
            return samples
        return to_int16(samples * (10 ** (self.db / 20) * FULL_SCALE / np.sqrt(power)))


@dataclass(frozen=True)
class Drift(Effect):
    """A level that wanders while the talker moves and gain controls chase.

    Handset gain controls and line equipment correct by several decibels within seconds; turning
    the head away from a mobile costs as much.

    Attributes:
        db: standard deviation of the wandering, decibels; 1-5.
        seconds: between independent values, straight in between; 0.5-3.
    """

    db: float
    seconds: float

    def __call__(self, samples: Samples, random: np.random.Generator) -> Samples:
        """Multiply by a gain drawn at points ``seconds`` apart."""
        if not len(samples):
            return samples
        step = max(1, round(self.seconds * SAMPLE_RATE))
        points = len(samples) // step + 2
        gains = 10 ** (self.db * random.standard_normal(points) / 20)
        gain = np.interp(np.arange(len(samples)), np.arange(points) * step, gains)
        return to_int16(samples * gain)


@dataclass(frozen=True)
class Clipping(Effect):
    """Peaks cut off by a microphone amplifier or converter that is driven too far.

    Loud talkers at sets with fixed gain, analogue trunks set too hot, and gain controls that are
    too slow. Hard clipping is a converter's, soft (hyperbolic tangent) an amplifier's.

    Attributes:
        overdrive_db: how far the peak of the speech is above the limit; 1-15 dB.
        soft: bent rather than cut.
    """

    overdrive_db: float
    soft: bool = False

    def __call__(self, samples: Samples, random: np.random.Generator) -> Samples:  # noqa: ARG002
        """Limit; nothing is drawn."""
        if not len(samples):
            return samples
        x = samples.astype(np.float64)
        limit = max(1.0, np.abs(x).max() * 10 ** (-self.overdrive_db / 20))
        return to_int16(limit * np.tanh(x / limit) if self.soft else np.clip(x, -limit, limit))
