"""A simple telephone channel: handset level, 300-3400 Hz, G.711.

Each call of :func:`telephone` draws its own channel, because networks differ: a classic trunk
cuts at 300 and 3400 Hz (ITU-T G.712), an IP phone often only at the codec's Nyquist; levels
differ by tens of decibels between handsets; North America and Japan code in mu-law, the rest of
the world in A-law.
"""

from __future__ import annotations

import numpy as np
from scipy.signal import butter, sosfilt

from streamer.codec import SAMPLE_RATE, Encoding, Samples, decode, encode, to_int16

BAND_LIMITED = 0.6
"""Share of calls whose band is cut."""
LEVEL_DB = (-38.0, -14.0)
"""Range of the speech level, dB relative to full scale, root mean square."""


def band_limit(samples: Samples, low: float, high: float, order: int = 4) -> Samples:
    """Butterworth band-pass, ``low``..``high`` Hz at -3 dB; int16 [n] at 8 kHz in and out."""
    sos = butter(order, (low, high), "bandpass", fs=SAMPLE_RATE, output="sos")
    filtered = sosfilt(sos, samples.astype(np.float64))
    return to_int16(filtered)


def at_level(samples: Samples, level_db: float) -> Samples:
    """Scale to a root-mean-square level in dB relative to full scale; silence stays silence."""
    rms = float(np.sqrt(np.mean(samples.astype(np.float64) ** 2))) / 32768 if len(samples) else 0.0
    if rms == 0.0:
        return samples
    gain = 10 ** (level_db / 20) / rms
    return to_int16(samples * gain)


def telephone(samples: Samples, random: np.random.Generator) -> Samples:
    """One utterance as one randomly drawn telephone channel delivers it.

    Args:
        samples: int16 [n] at 8 kHz.
        random: the only source of chance; the same state gives the same channel.
    """
    if random.random() < BAND_LIMITED:
        low, high = random.uniform(200, 350), random.uniform(3200, 3600)
        samples = band_limit(samples, low, high, order=int(random.integers(2, 5)))
    samples = at_level(samples, random.uniform(*LEVEL_DB))
    law = Encoding.MULAW if random.random() < 0.5 else Encoding.ALAW
    return decode(encode(samples, law), law)
