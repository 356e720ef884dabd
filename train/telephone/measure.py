"""Levels of speech and mixing at a ratio to them.

Speech is mostly pauses in a telephone leg, so its level means nothing over a whole file. What
counts is the active speech level in the manner of ITU-T P.56, method B: the power while the
talker is within 15.9 dB of that very power. Frames of 20 ms stand in for P.56's envelope.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.audio.codec import Samples, to_int16

FULL_SCALE = 32768.0
"""Amplitude of 0 dB full scale ("dBov" of ITU-T G.100.1, which speaks of powers, as here)."""
FRAME = 160
"""Samples of one level decision: 20 ms."""
MARGIN = 10 ** (-15.9 / 10)
"""P.56's margin between the active level and the threshold of activity, as a power ratio."""

Wave = NDArray[np.floating[Any]]


def frame_powers(samples: Samples | Wave) -> NDArray[np.float64]:
    """Mean square of each 20 ms frame, a last short one included; [ceil(n/160)]."""
    x = samples.astype(np.float64)
    whole = len(x) // FRAME * FRAME
    powers: NDArray[np.float64] = np.square(x[:whole]).reshape(-1, FRAME).mean(axis=1)
    if whole < len(x):
        powers = np.append(powers, np.square(x[whole:]).mean())
    return powers


def active_frames(powers: NDArray[np.float64]) -> tuple[NDArray[np.bool_], float]:
    """Which frames are speech, and their mean power; no frame and 0.0 for silence."""
    active = powers > 0
    level = float(powers[active].mean()) if active.any() else 0.0
    # The level can only rise from here, since what falls out is below average: this ends.
    while level > 0.0:
        kept = powers > level * MARGIN
        if kept.sum() == active.sum():
            break
        active, level = kept, float(powers[kept].mean())
    return active, level


def active_power(samples: Samples | Wave) -> float:
    """Mean square while the talker speaks, at 16-bit scale; 0.0 for silence or no samples."""
    return active_frames(frame_powers(samples))[1]


def active_level_db(samples: Samples) -> float:
    """Active speech level, dB relative to full scale; minus infinity for silence."""
    power = active_power(samples)
    return 10 * float(np.log10(power / FULL_SCALE**2)) if power > 0.0 else -np.inf


def mix_at_snr(speech: Samples, other: Samples | Wave, snr_db: float) -> Samples:
    """Add ``other`` so that the ACTIVE speech is ``snr_db`` above the mean power of ``other``.

    Where the sum would clip, both are lowered together, which spares the ratio. Silence has no
    level to relate to: if either is silent, the speech comes back unchanged.

    Args:
        speech: int16 [n].
        other: any real [n], any scale.
        snr_db: decibels; within rounding to int16 it is exact.

    Raises:
        ValueError: the lengths differ.
    """
    if len(speech) != len(other):
        raise ValueError(f"speech of {len(speech)} samples, what is added has {len(other)}")
    signal, noise = active_power(speech), other.astype(np.float64)
    power = float(np.square(noise).mean()) if len(noise) else 0.0
    if signal == 0.0 or power == 0.0:
        return speech
    noise *= np.sqrt(signal / power) * 10 ** (-snr_db / 20)
    noise += speech
    peak = float(np.abs(noise).max())
    if peak > FULL_SCALE - 1:
        noise *= (FULL_SCALE - 1) / peak
    return to_int16(noise)
