"""inaSpeechSegmenter: the gender that has more of the call's speech.

It reads 16 kHz files only, so the call is written to one; that takes about a millisecond. Its
weights come over the network when it is first used.
"""

from __future__ import annotations

import argparse
import tempfile
from importlib.metadata import version
from pathlib import Path

import soundfile
from inaSpeechSegmenter import Segmenter  # type: ignore[import-not-found,unused-ignore]

from neighbours.answering import Answer, Said, Sound, serve

GENDERS = ("female", "male")


def load(_: argparse.Namespace) -> tuple[str, Answer]:
    """Both networks, without ffmpeg."""
    segmenter = Segmenter(vad_engine="smn", detect_gender=True, ffmpeg=None)
    folder = tempfile.TemporaryDirectory()

    def answer(sound: Sound) -> Said:
        path = Path(folder.name) / "call.wav"
        soundfile.write(path, sound.samples, sound.rate)
        seconds = dict.fromkeys(GENDERS, 0.0)
        for label, start, stop in segmenter(str(path)):
            if label in seconds:
                seconds[label] += stop - start
        return Said(max(GENDERS, key=seconds.__getitem__) if any(seconds.values()) else "")

    return f"inaSpeechSegmenter {version('inaSpeechSegmenter')}", answer


if __name__ == "__main__":
    serve(load)
