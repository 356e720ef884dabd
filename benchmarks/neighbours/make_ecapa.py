"""Write the ONNX file that the embedding runtimes are fed: ECAPA-TDNN, C=512, random weights.

    python -m neighbours.make_ecapa OUT.onnx

SpeechBrain's layers; names of input and output as WeSpeaker has them, metadata as sherpa-onnx asks.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import onnx
import torch
from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN  # type: ignore[import-not-found,unused-ignore]
from torch import Tensor, nn

DIMENSION = 192
METADATA = {
    "framework": "wespeaker",
    "language": "none",
    "url": "none",
    "comment": "random weights, for measuring cost",
    "sample_rate": "8000",
    "output_dim": str(DIMENSION),
    "normalize_samples": "0",
}


class Embedding(nn.Module):
    """fbank [B, T, 80] to [B, 192]."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = ECAPA_TDNN(80, channels=[512] * 4 + [1536], lin_neurons=DIMENSION)

    def forward(self, feats: Tensor) -> Tensor:
        """The embedding, without its time axis of one."""
        embedding: Tensor = self.encoder(feats)
        return embedding[:, 0]


def main() -> None:
    """Command line."""
    path = Path(sys.argv[1])
    fresh = path.with_suffix(".tmp")
    warnings.simplefilter("ignore")  # the exporter's own deprecations
    torch.onnx.export(
        Embedding().eval(),
        (torch.zeros(1, 298, 80),),
        fresh,
        input_names=["feats"],
        output_names=["embs"],
        dynamic_axes={"feats": {0: "batch", 1: "frames"}, "embs": {0: "batch"}},
        dynamo=False,
    )
    made = onnx.load(fresh)
    for key, value in METADATA.items():
        made.metadata_props.add(key=key, value=value)
    onnx.save(made, fresh)
    fresh.rename(path)


if __name__ == "__main__":
    main()
