"""The room around the talker: reverberation at the microphone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from streamer.audio.codec import SAMPLE_RATE, Samples, to_int16
from train.telephone.effect import Effect, samples_of

ROOMS = 64
"""Rooms in the bank. Each is made when first used: 2 ms, once in a process."""
_SEED = 711
_ORDER = 8
"""Reflections followed by the image method; enough for the first 50 ms."""
_MIXING = samples_of(0.04)
"""Where single reflections give way to a dense tail."""
_GAP = samples_of(0.001)
"""Seconds after the direct sound within which a reflection counts as part of it."""


@dataclass(frozen=True)
class Room(Effect):
    """Reverberation: early reflections of a shoebox room by the image method, then a dense tail.

    The direct sound keeps its place and level, so the twin stays aligned. Rooms are offices,
    kitchens, cars and halls of 2-10 m with reverberation times of 0.15-0.9 s. A handset at the
    mouth has a direct-to-reverberant ratio of 12-30 dB, hands-free at 0.4-2 m of -3 to 10 dB.

    Attributes:
        index: of the room, 0 to :data:`ROOMS` - 1.
        drr_db: energy of the direct sound over all that follows, decibels.
    """

    index: int
    drr_db: float

    def __call__(self, samples: Samples, random: np.random.Generator) -> Samples:  # noqa: ARG002
        """Convolve; nothing is drawn."""
        if not len(samples):
            return samples
        x = samples.astype(np.float32)
        from scipy.signal import oaconvolve  # noqa: PLC0415 - takes a second

        wet = oaconvolve(x, room_response(self.index))[: len(x)]
        return to_int16(x + np.float32(10 ** (-self.drr_db / 20)) * wet)


@lru_cache(maxsize=ROOMS)
def room_response(index: int) -> NDArray[np.float32]:
    """What follows the direct sound in one room of the bank: float32 [m], energy 1.

    Sample 0 is the moment of the direct sound, which is left out. The same index is the same room
    in every process.

    Raises:
        ValueError: an index outside the bank.
    """
    if not 0 <= index < ROOMS:
        raise ValueError(f"room {index}, not within 0-{ROOMS - 1}")
    # Imported late: only who reverberates needs it.
    import pyroomacoustics  # noqa: PLC0415

    random, size, absorption = _shape(index)
    room = pyroomacoustics.ShoeBox(
        size, fs=SAMPLE_RATE, materials=pyroomacoustics.Material(absorption), max_order=_ORDER
    )
    talker = random.uniform(0.5, size - 0.5)
    direction = random.standard_normal(3)
    direction /= np.linalg.norm(direction)
    microphone = np.clip(talker + 0.5 * direction, 0.2, size - 0.2)
    room.add_source(talker)
    room.add_microphone(microphone)
    room.compute_rir()
    response = np.asarray(room.rir[0][0], np.float64)
    early = response[int(np.argmax(np.abs(response))) :]
    early[:_GAP] = 0.0
    whole = _with_tail(early, reverberation_time(index), random)
    whole /= np.sqrt(np.square(whole).sum())
    return whole.astype(np.float32)


def reverberation_time(index: int) -> float:
    """Seconds in which a room's sound falls by 60 dB, by Eyring's formula, 0.15 to 0.9."""
    _, (x, y, z), absorption = _shape(index)
    surface = 2 * (x * y + x * z + y * z)
    return float(np.clip(0.161 * x * y * z / (-surface * np.log(1 - absorption)), 0.15, 0.9))


def _shape(index: int) -> tuple[np.random.Generator, NDArray[np.float64], float]:
    """The room's own chance, its length, width and height in metres, its walls' absorption."""
    random = np.random.default_rng([_SEED, index])
    size = np.array([random.uniform(2, 10), random.uniform(2, 7), random.uniform(2.2, 3.5)])
    return random, size, float(random.uniform(0.12, 0.5))


def _with_tail(
    early: NDArray[np.float64], seconds: float, random: np.random.Generator
) -> NDArray[np.float64]:
    """Go on with noise that decays exponentially where single reflections become too many."""
    length = samples_of(seconds)
    tail = random.standard_normal(length) * 10 ** (-3 * np.arange(length) / length)
    whole = np.zeros(length)
    kept = min(len(early), _MIXING)
    whole[:kept] = early[:kept]
    level = np.sqrt(np.square(early[kept // 2 : kept]).mean())
    reference = np.sqrt(np.square(tail[kept // 2 : kept]).mean())
    whole[kept:] = tail[kept:] * level / reference
    return whole
