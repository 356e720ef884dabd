"""What a student makes of whole utterances, as arrays for analysis."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from model.frontend import HOP, WINDOW
from model.student import Student, StudentConfig
from train.loading.batches import Batch

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


def load_student(path: Path) -> Student:
    """The student of a checkpoint of ``train/supervised.py``: its best epoch, for evaluation.

    Args:
        path: ``last.pt`` of a run. The encoder is the default one unless the checkpoint holds
            ``config``, :meth:`StudentConfig.to_dict`.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no such checkpoint, or its weights belong to another network.
    """
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        weights = state["best"]["weights"]
        config = StudentConfig.from_dict(state["config"]) if "config" in state else StudentConfig()
    except (KeyError, TypeError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path.name}: no checkpoint with the best weights: {error}") from error
    student = Student(config)
    try:
        student.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{path.name}: weights of another network: {error}") from error
    return student.eval()


@torch.no_grad()
def embed(student: Student, batches: Iterable[Batch]) -> Embedded:
    """Run ``student`` offline over ``batches``; utterances without speech are left out.

    Raises:
        ValueError: there is speech in none of them.
    """
    student.eval()
    ids: list[str] = []
    parts: list[tuple[Matrix, Matrix, Matrix, NDArray[np.int64]]] = []
    for batch in batches:
        output = student(batch.samples, batch.lengths)
        blocks = output.ended.sum(dim=1)
        heard = torch.nonzero((blocks > 0) & (batch.lengths >= WINDOW))[:, 0]
        features = student.frontend(batch.samples)
        frames = 1 + (batch.lengths - WINDOW) // HOP
        inside = (torch.arange(features.shape[1]) < frames[:, None]).to(features.dtype)[..., None]
        spectra = (features * inside).sum(dim=1) / frames.clamp(min=1)[:, None]
        last = blocks[heard] - 1
        posteriors = output.logits["age_band"][heard, last].softmax(dim=1)
        parts.append(
            (
                output.embedding[heard, last].numpy(),
                spectra[heard].numpy(),
                posteriors.numpy(),
                batch.targets["age_band"][heard].numpy(),
            )
        )
        ids += [batch.ids[i] for i in heard.tolist()]
    if not ids:
        raise ValueError("there is speech in none of the utterances")
    embeddings, spectra_, posteriors_, targets = (
        np.concatenate(p) for p in zip(*parts, strict=True)
    )
    return Embedded(ids, embeddings, spectra_, posteriors_, targets)
