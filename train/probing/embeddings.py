"""What a student makes of whole utterances, as arrays for analysis."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from model.classifier import SpeakerClassifier
from model.frontend import HOP, WINDOW
from train.data.batching import Batch

Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class Embedded:
    """Utterances in which there was speech, in the order of the batches.

    Attributes:
        ids: [n] cut ids.
        embeddings: [n, E], at the end of each.
        spectra: [n, 80], mean log-mel energies of the same speech: what the audio itself betrays.
        posteriors: [n, bands] of the age band, not calibrated, at the end.
        targets: int64 [n], age band; -1 where unknown.
    """

    ids: list[str]
    embeddings: Matrix
    spectra: Matrix
    posteriors: Matrix
    targets: NDArray[np.int64]


@torch.no_grad()
def embed(student: SpeakerClassifier, batches: Iterable[Batch]) -> Embedded:
    """Run ``student`` offline over ``batches``; utterances without speech are left out.

    Raises:
        ValueError: there is speech in none of them.
    """
    student.eval()
    ids: list[str] = []
    parts: list[tuple[Matrix, Matrix, Matrix, NDArray[np.int64]]] = []
    for batch in batches:
        output = student(batch.samples, batch.lengths)
        blocks = output.block_mask.sum(dim=1)
        spoken = torch.nonzero((blocks > 0) & (batch.lengths >= WINDOW))[:, 0]
        features = student.frontend(batch.samples)
        frames = 1 + (batch.lengths - WINDOW) // HOP
        inside = (torch.arange(features.shape[1]) < frames[:, None]).to(features.dtype)[..., None]
        spectra = (features * inside).sum(dim=1) / frames.clamp(min=1)[:, None]
        last = blocks[spoken] - 1
        posteriors = output.logits["age_band"][spoken, last].softmax(dim=1)
        parts.append(
            (
                output.embedding[spoken, last].numpy(),
                spectra[spoken].numpy(),
                posteriors.numpy(),
                batch.targets["age_band"][spoken].numpy(),
            )
        )
        ids += [batch.ids[i] for i in spoken.tolist()]
    if not ids:
        raise ValueError("there is speech in none of the utterances")
    embeddings, spectra_, posteriors_, targets = (
        np.concatenate(p) for p in zip(*parts, strict=True)
    )
    return Embedded(ids, embeddings, spectra_, posteriors_, targets)
