"""Praat's pitch: the median over voiced frames; the threshold is the caller's.

Autocorrelation (Boersma 1993), a frame every 10 ms, 75 to 500 Hz, otherwise Praat's own settings.
"""

from __future__ import annotations

import argparse

import numpy as np
import parselmouth  # type: ignore[import-not-found,unused-ignore]

from neighbours.answering import Answer, Said, Sound, serve

STEP_SECONDS = 0.01
LOWEST_HERTZ = 75.0
HIGHEST_HERTZ = 500.0


def load(_: argparse.Namespace) -> tuple[str, Answer]:
    """Nothing to load but the library."""

    def answer(sound: Sound) -> Said:
        whole = parselmouth.Sound(sound.samples / 32768, sound.rate)
        pitch = whole.to_pitch_ac(
            time_step=STEP_SECONDS, pitch_floor=LOWEST_HERTZ, pitch_ceiling=HIGHEST_HERTZ
        )
        hertz = pitch.selected_array["frequency"]
        voiced = hertz[hertz > 0]
        return Said(hertz=float(np.median(voiced)) if len(voiced) else None)

    return (
        f"praat-parselmouth {parselmouth.__version__} (Praat {parselmouth.PRAAT_VERSION})",
        answer,
    )


if __name__ == "__main__":
    serve(load)
