"""What people write today: speech gate, Kaldi fbank, SpeechBrain's ECAPA-TDNN in PyTorch.

C=1024 as published, random weights, the window anew every half second. Favours the peer: no
resampling to 16 kHz, and no classifier behind the embedding.
"""

from __future__ import annotations

import argparse

import numpy as np
import speechbrain  # type: ignore[import-not-found,unused-ignore]
import torch
from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN  # type: ignore[import-not-found,unused-ignore]
from torchaudio.compliance import kaldi

from neighbours.child import Calls, Hear, serve, windows
from streamer.audio.codec import SAMPLE_RATE


def load(_: argparse.Namespace) -> tuple[str, Hear]:
    """The published encoder: 80 mels, 192 dimensions."""
    torch.set_num_threads(1)
    encoder = ECAPA_TDNN(80, lin_neurons=192).eval()

    def hear(calls: Calls) -> int:
        predictions = 0
        with torch.inference_mode():
            for call in calls:
                for window in windows(call):
                    samples = torch.from_numpy(window.astype(np.float32))[None]
                    mels = kaldi.fbank(samples, num_mel_bins=80, sample_frequency=SAMPLE_RATE)
                    encoder((mels - mels.mean(dim=0))[None])
                    predictions += 1
        return predictions

    return f"speechbrain {speechbrain.__version__}, torch {torch.__version__}", hear


if __name__ == "__main__":
    serve(load)
