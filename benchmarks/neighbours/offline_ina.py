"""inaSpeechSegmenter per call: speech, music and noise, then gender, over the whole file.

It reads 16 kHz files only, so every sample is written twice; that write is part of the cost and
takes about a millisecond a call. Its weights come over the network when it is first used.
"""

from __future__ import annotations

import argparse
import tempfile
from importlib.metadata import version
from pathlib import Path

import soundfile
from inaSpeechSegmenter import Segmenter  # type: ignore[import-not-found,unused-ignore]

from neighbours.child import Calls, Hear, serve, whole
from streamer.audio.codec import SAMPLE_RATE


def load(_: argparse.Namespace) -> tuple[str, Hear]:
    """Both networks, without ffmpeg."""
    segmenter = Segmenter(vad_engine="smn", detect_gender=True, ffmpeg=None)

    def hear(calls: Calls) -> int:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "call.wav"
            for call in calls:
                soundfile.write(path, whole(call).repeat(2), 2 * SAMPLE_RATE)
                segmenter(str(path))
        return len(calls)

    return f"inaSpeechSegmenter {version('inaSpeechSegmenter')}", hear


if __name__ == "__main__":
    serve(load)
