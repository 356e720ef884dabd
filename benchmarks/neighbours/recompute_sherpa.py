"""sherpa-onnx's speaker embedding extractor (C++ fbank, ONNX Runtime), its window anew each time.

Favours the peer: ECAPA-TDNN at C=512, the smaller of the published ones, and a file that claims to
be made for 8 kHz, so that nothing is resampled.
"""

from __future__ import annotations

import argparse
from importlib.metadata import version

import numpy as np
import sherpa_onnx  # type: ignore[import-not-found,unused-ignore]

from neighbours.child import Calls, Hear, serve, windows
from streamer.audio.codec import SAMPLE_RATE


def load(options: argparse.Namespace) -> tuple[str, Hear]:
    """An extractor on one thread."""
    config = sherpa_onnx.SpeakerEmbeddingExtractorConfig(
        model=str(options.model), num_threads=1, provider="cpu"
    )
    extractor = sherpa_onnx.SpeakerEmbeddingExtractor(config)

    def hear(calls: Calls) -> int:
        predictions = 0
        for call in calls:
            for window in windows(call):
                stream = extractor.create_stream()
                stream.accept_waveform(SAMPLE_RATE, window * np.float32(1 / 32768))
                stream.input_finished()
                extractor.compute(stream)
                predictions += 1
        return predictions

    return f"sherpa-onnx {version('sherpa-onnx')}", hear


if __name__ == "__main__":
    serve(load)
