"""Encoders that recompute a window: the usual way to get running predictions from offline networks.

A call goes in chunks of 100 ms through the speech gate of our server; every half second in which
there was speech, the last three seconds of speech go through the encoder. Weights are random, they
cost the same. Choices favour the peers: nothing is resampled, sherpa-onnx and WeSpeaker get the
smaller published ECAPA-TDNN, and none has a classifier behind the embedding.

    python -m peers.recompute OUT.onnx    # writes that ECAPA-TDNN, C=512, with SpeechBrain's layers

Each function loads one encoder, in the environment of that system, so their imports are local.
"""
# ruff: noqa: PLC0415

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from peers.child import Answer, Process, Sound

from streamer.audio.codec import SAMPLE_RATE, Samples, decode

Encode = Callable[[Samples], object]
"""One window of speech, at most three seconds, through the encoder."""

WINDOW_SECONDS = 3.0
EVERY_SECONDS = 0.5
DIMENSION = 192
METADATA = {  # as sherpa-onnx requires
    "framework": "wespeaker",
    "language": "none",
    "url": "none",
    "comment": "random weights, for measuring cost",
    "sample_rate": "8000",
    "output_dim": str(DIMENSION),
    "normalize_samples": "0",
}


def windows(sound: Sound) -> Iterator[Samples]:
    """Yield the windows of a telephone call, the first after half a second of speech."""
    from streamer.audio.speech_gate import SpeechGate

    gate = SpeechGate()
    chunk, every = SAMPLE_RATE // 10, round(EVERY_SECONDS * SAMPLE_RATE)
    speech = np.zeros(0, np.int16)
    fresh = False
    due = every
    for start in range(0, len(sound.data), chunk):
        passed, _ = gate.push(decode(sound.data[start : start + chunk], sound.encoding))
        if passed:
            fresh = True
            speech = np.concatenate([speech, np.frombuffer(passed, np.int16)])
            speech = speech[-round(WINDOW_SECONDS * SAMPLE_RATE) :]
        if start + chunk >= due:
            due += every
            if fresh and len(speech) >= every:
                fresh = False
                yield speech


def _fbank(window: Samples, **settings: Any) -> Any:  # noqa: ANN401 - a tensor of the environment
    import torch
    from torchaudio.compliance import kaldi

    samples = torch.from_numpy(window.astype(np.float32))[None]
    return kaldi.fbank(samples, num_mel_bins=80, sample_frequency=SAMPLE_RATE, **settings)


def speechbrain(_: Path | None) -> tuple[str, Encode]:
    """Kaldi fbank and SpeechBrain's ECAPA-TDNN in PyTorch, C=1024 as published."""
    import speechbrain as package  # type: ignore[import-not-found,unused-ignore]
    import torch
    from speechbrain.lobes.models.ECAPA_TDNN import (  # type: ignore[import-not-found,unused-ignore]
        ECAPA_TDNN,
    )

    torch.set_num_threads(1)
    encoder = ECAPA_TDNN(80, lin_neurons=DIMENSION).eval()

    def encode(window: Samples) -> object:
        with torch.inference_mode():
            mels = _fbank(window)
            return encoder((mels - mels.mean(dim=0))[None])

    return f"speechbrain {package.__version__}, torch {torch.__version__}", encode


def wespeaker(model: Path | None) -> tuple[str, Encode]:
    """WeSpeaker's runtime: torchaudio fbank, ONNX Runtime.

    Its own entry takes a WAV file; these are the two steps behind that entry.
    """
    import torch
    from wespeakerruntime import Speaker  # type: ignore[import-not-found,unused-ignore]

    torch.set_num_threads(1)
    speaker = Speaker(onnx_path=str(model))

    def encode(window: Samples) -> object:
        mels = _fbank(window, window_type="hamming", use_energy=False)
        return speaker.extract_embedding_feat(mels.numpy()[None])

    return f"wespeakerruntime {version('wespeakerruntime')}", encode


def sherpa(model: Path | None) -> tuple[str, Encode]:
    """sherpa-onnx's speaker embedding extractor: fbank in C++, ONNX Runtime."""
    import sherpa_onnx  # type: ignore[import-not-found,unused-ignore]

    config = sherpa_onnx.SpeakerEmbeddingExtractorConfig(
        model=str(model), num_threads=1, provider="cpu"
    )
    extractor = sherpa_onnx.SpeakerEmbeddingExtractor(config)

    def encode(window: Samples) -> object:
        stream = extractor.create_stream()
        stream.accept_waveform(SAMPLE_RATE, window * np.float32(1 / 32768))
        stream.input_finished()
        return extractor.compute(stream)

    return f"sherpa-onnx {version('sherpa-onnx')}", encode


def load(options: argparse.Namespace) -> tuple[str, Process]:
    """Load the encoder that ``--variant`` names."""
    loaders = {loader.__name__: loader for loader in (speechbrain, wespeaker, sherpa)}
    name, encode = loaders[options.variant](options.model)

    def process(sounds: Sequence[Sound]) -> list[Answer]:
        answers = []
        for sound in sounds:
            count = 0
            for window in windows(sound):
                encode(window)
                count += 1
            answers.append(Answer(predictions=count))
        return answers

    return name, process


def write_ecapa(path: Path) -> None:
    """Write ECAPA-TDNN, C=512, random weights; input and output are named as WeSpeaker's."""
    import onnx
    import torch
    from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
    from torch import Tensor, nn

    class Embedding(nn.Module):
        """fbank [B, T, 80] to [B, 192]."""

        def __init__(self) -> None:
            super().__init__()
            self.encoder = ECAPA_TDNN(80, channels=[512] * 4 + [1536], lin_neurons=DIMENSION)

        def forward(self, feats: Tensor) -> Tensor:
            embedding: Tensor = self.encoder(feats)
            return embedding[:, 0]

    partial = path.with_suffix(".partial")
    warnings.simplefilter("ignore")  # the exporter's own deprecations
    torch.onnx.export(
        Embedding().eval(),
        (torch.zeros(1, 298, 80),),
        partial,
        input_names=["feats"],
        output_names=["embs"],
        dynamic_axes={"feats": {0: "batch", 1: "frames"}, "embs": {0: "batch"}},
        dynamo=False,
    )
    made = onnx.load(partial)
    for key, value in METADATA.items():
        made.metadata_props.add(key=key, value=value)
    onnx.save(made, partial)
    partial.rename(path)


if __name__ == "__main__":
    write_ecapa(Path(sys.argv[1]))
