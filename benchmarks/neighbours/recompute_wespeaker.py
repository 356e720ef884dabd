"""WeSpeaker's runtime (torchaudio fbank, ONNX Runtime), its window anew every half second.

Its own entry takes a WAV file; a pipeline would hand it features, so this calls the two steps
behind that entry. Favours the peer: ECAPA-TDNN at C=512, no file, nothing resampled.
"""

from __future__ import annotations

import argparse
from importlib.metadata import version

import numpy as np
import torch
from torchaudio.compliance import kaldi
from wespeakerruntime import Speaker  # type: ignore[import-not-found,unused-ignore]

from neighbours.child import Calls, Hear, serve, windows
from streamer.audio.codec import SAMPLE_RATE


def load(options: argparse.Namespace) -> tuple[str, Hear]:
    """A speaker model on one thread."""
    torch.set_num_threads(1)
    speaker = Speaker(onnx_path=str(options.model))

    def hear(calls: Calls) -> int:
        predictions = 0
        for call in calls:
            for window in windows(call):
                samples = torch.from_numpy(window.astype(np.float32))[None]
                mels = kaldi.fbank(
                    samples,
                    num_mel_bins=80,
                    sample_frequency=SAMPLE_RATE,
                    window_type="hamming",
                    use_energy=False,
                )
                speaker.extract_embedding_feat(mels.numpy()[None])
                predictions += 1
        return predictions

    return f"wespeakerruntime {version('wespeakerruntime')}", hear


if __name__ == "__main__":
    serve(load)
