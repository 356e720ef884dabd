"""Voices that come back: the other party's and one's own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from streamer.audio.codec import SAMPLE_RATE, Samples, to_int16
from train.telephone.effect import Effect, TalkerSource, samples_of
from train.telephone.measure import active_power

_DISPERSION = 48
"""Samples over which a hybrid or a loudspeaker and microphone spread an echo: 6 ms."""


@dataclass(frozen=True)
class FarEndEcho(Effect):
    """The other party leaks into this leg: through the hybrid, or loudspeaker into microphone.

    A hybrid's echo return loss is 15 dB on average and at least 6 (ITU-T G.122, G.168);
    hands-free sets reach 40 dB with their cancellers (ITU-T P.340); what is left of a cancelled
    echo lies 25-45 dB down. The other party talks at the level of this one.

    Attributes:
        source: gives the other party.
        loss_db: echo return loss, decibels; 12-45.
    """

    source: TalkerSource
    loss_db: float

    def __call__(self, samples: Samples, random: np.random.Generator) -> Samples:
        """Draw the other party and the echo path, and add."""
        if not len(samples):
            return samples
        other = self.source(random, len(samples)).astype(np.float64)
        power, own = active_power(other), active_power(samples)
        if power == 0.0 or own == 0.0:
            return samples
        gain = np.sqrt(own / power) * 10 ** (-self.loss_db / 20)
        return to_int16(samples + gain * _dispersed(other, random))


@dataclass(frozen=True)
class TalkerEcho(Effect):
    """One's own voice again, later: reflected at the far end and looped back, or bridged twice.

    Conference bridges, call recorders that mix both legs, and gateways without a canceller.
    Delays grow from 15 ms (one exchange) to 300 ms (packets and satellites); ITU-T G.131 asks for
    the more loss the later the echo comes.

    Attributes:
        delay_ms: 15-300.
        loss_db: of the echo path, decibels; 10-40.
    """

    delay_ms: float
    loss_db: float

    def __call__(self, samples: Samples, random: np.random.Generator) -> Samples:
        """Draw the echo path's dispersion and add."""
        delay = samples_of(self.delay_ms / 1000)
        if len(samples) <= delay:
            return samples
        out = samples.astype(np.float64)
        echo = _dispersed(out[: len(out) - delay], random)
        out[delay:] += 10 ** (-self.loss_db / 20) * echo
        return to_int16(out)


def _dispersed(
    wave: np.ndarray[tuple[int], np.dtype[np.float64]], random: np.random.Generator
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Through a few milliseconds of decaying random response; mean power as before."""
    response = random.standard_normal(_DISPERSION) * np.exp(-np.arange(_DISPERSION) / 8.0)
    response[0] += 2.0
    out = np.convolve(wave, response)[: len(wave)]
    before, after = float(np.square(wave).mean()), float(np.square(out).mean())
    if after > 0.0:
        out *= np.sqrt(before / after)
    return out


assert SAMPLE_RATE * 6 == _DISPERSION * 1000
