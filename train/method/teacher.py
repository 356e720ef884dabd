"""What a teacher knows: embeddings of clean utterances, and the dictionary K made of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lhotse import MonoCut
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor

from model.classifier import SpeakerClassifier
from model.frontend import WIDEBAND_RATE
from model.labels import LabelTree
from train.checkpoint import FILE, load_student
from train.data.batching import UNKNOWN, Batch, collate
from train.data.clean import CleanSpeech
from train.data.dataset import Split, plain_id, utterance_of

_WINDOW = 512
"""Utterances decoded at a time, so that those of like length are embedded together."""
_BATCH = 16


@dataclass(frozen=True)
class Embeddings:
    """Of clean utterances that a telephone version may be made of.

    Attributes:
        ids: corpus/utterance, [N].
        matrix: float32 [N, E], the teacher's representation of the whole utterance.
        kind: int64 [N], gender x age band, band fastest; -1 where the band is unknown.
        confidence: float32 [N], the teacher's posterior of the true gender and band.
    """

    ids: NDArray[np.str_]
    matrix: NDArray[np.float32]
    kind: NDArray[np.int64]
    confidence: NDArray[np.float32]

    def __post_init__(self) -> None:
        rows = {str(name): row for row, name in enumerate(self.ids)}
        object.__setattr__(self, "_rows", rows)

    def rows(self, cut_ids: Iterable[str]) -> tuple[Tensor, Tensor]:
        """float32 [B, E] and bool [B], whether there is one; zeros where there is none."""
        table: dict[str, int] = self._rows  # type: ignore[attr-defined]
        found = [table.get(plain_id(name), -1) for name in cut_ids]
        known = torch.tensor([row >= 0 for row in found])
        chosen = torch.from_numpy(self.matrix[np.maximum(found, 0)])
        return chosen * known[:, None], known

    def dictionary(self, kinds: int) -> Tensor:
        """K, float32 [kinds, E]: the mean embedding of every kind, weighted by confidence.

        An empty kind gets the mean of all.
        """
        weight = np.where(self.kind >= 0, self.confidence, 0.0)
        everyone = np.average(self.matrix, axis=0, weights=weight + 1e-9)
        rows = []
        for kind in range(kinds):
            inside = weight * (self.kind == kind)
            present = inside.sum() > 0
            rows.append(np.average(self.matrix, axis=0, weights=inside) if present else everyone)
        return torch.from_numpy(np.stack(rows).astype(np.float32))


def _batches(split: Split, speech: CleanSpeech) -> Iterator[Batch]:
    """All wideband utterances of a split, whole, those of like length together."""
    window: list[MonoCut] = []
    cuts = track(split.cuts(), "teacher listens", split.clips)
    for cut in cuts:
        if utterance_of(cut).line == "wideband":  # a telephone recording has no clean twin
            window.append(cut)
        if len(window) == _WINDOW:
            yield from _sorted(window, speech)
            window = []
    yield from _sorted(window, speech)


def _sorted(window: list[MonoCut], speech: CleanSpeech) -> Iterator[Batch]:
    ordered = sorted(speech.examples(window), key=lambda pair: -len(pair[1].speech))
    for start in range(0, len(ordered), _BATCH):
        yield collate(dict(ordered[start : start + _BATCH]))


@torch.no_grad()
def embed(teacher: SpeakerClassifier, split: Split) -> Embeddings:
    """The teacher's view of every clean utterance of ``split``.

    Raises:
        ValueError: there is no wideband utterance.
    """
    tree = teacher.config.tree
    device = next(teacher.parameters()).device
    ids: list[str] = []
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for batch in _batches(split, CleanSpeech(tree, None, seed=0)):
        output = teacher(batch.samples.to(device), batch.lengths.to(device))
        posterior = {task: values.softmax(dim=1).cpu() for task, values in output.last().items()}
        gender, band = batch.targets["gender"], batch.targets["age_band"]
        rows = torch.arange(len(gender))
        confidence = posterior["gender"][rows, gender] * posterior["age_band"][rows, band]
        kind = torch.where(band == UNKNOWN, UNKNOWN, gender * len(tree.age_band) + band)
        parts.append((output.embedding[:, -1].cpu(), kind, confidence))
        ids += [plain_id(name) for name in batch.ids]
    if not ids:
        raise ValueError("the teacher's data hold no wideband utterance to learn from")
    return Embeddings(np.array(ids), *(torch.cat(p).numpy() for p in zip(*parts, strict=True)))


def embeddings_of(
    folder: Path, split: Split, tree: LabelTree, device: torch.device | None = None
) -> Embeddings:
    """:func:`embed` by the teacher of a run, kept beside its checkpoint for the next time.

    Args:
        folder: of a run of train.pretrain.
        split: wideband training speech.
        tree: of the student; the teacher must have been trained on the same.
        device: where the teacher listens; None is the CPU.

    Raises:
        OSError, ValueError: there is no usable teacher or no usable speech.
    """
    teacher = load_student(folder)
    if teacher.config.tree != tree:
        raise ValueError(f"{folder.name}: the teacher was trained on other labels")
    if teacher.config.sample_rate != WIDEBAND_RATE:
        raise ValueError(
            f"{folder.name}: takes {teacher.config.sample_rate} Hz and is no teacher; "
            "it has to be a run of train.pretrain"
        )
    key = hashlib.sha256((folder / FILE).read_bytes())
    key.update("".join(shard.cuts for shard in split.shards).encode())
    path = folder / f"embeddings-{key.hexdigest()[:12]}.npz"
    if not path.exists():
        found = embed(teacher.to(device or torch.device("cpu")), split)
        partial = path.with_suffix(".tmp.npz")
        np.savez(partial, **{name: getattr(found, name) for name in Embeddings.__annotations__})
        partial.replace(path)
    with np.load(path) as stored:
        return Embeddings(**{name: stored[name] for name in Embeddings.__annotations__})
