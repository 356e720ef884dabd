"""Utterances -> degraded, speech-gated, cropped and padded batches of tensors.

Every example draws from its own generator seeded by (seed, epoch, index): the result does not
depend on the number of workers or on where a run was resumed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from model.labels import TASKS, LabelTree
from model.student import BLOCK
from streamer.codec import SAMPLE_RATE, Samples
from streamer.vad import speech_of
from train.corpus import DecodedCorpus, Utterance
from train.telephone import telephone

UNKNOWN = -1
"""Target of a task whose label is unknown."""


class Batch(NamedTuple):
    """One step's worth of speech.

    Attributes:
        samples: float32 [B, L] in [-1, 1], zero-padded, L a multiple of the block.
        lengths: int64 [B], samples of each.
        targets: int64 [B] by task; -1 where unknown.
        rows: int64 [B], utterance of the corpus.
    """

    samples: Tensor
    lengths: Tensor
    targets: dict[str, Tensor]
    rows: Tensor


def targets_of(utterance: Utterance, tree: LabelTree) -> dict[str, int]:
    """Class indices by task, :data:`UNKNOWN` for an empty band; ValueError for a foreign label."""
    band = utterance.age_band
    if band and band not in tree.age_band:
        raise ValueError(f"{utterance.id}: age band {band!r} is not one of {tree.age_band}")
    if utterance.gender not in tree.gender:
        raise ValueError(f"{utterance.id}: gender {utterance.gender!r} not one of {tree.gender}")
    return {
        "gender": tree.gender.index(utterance.gender),
        "age_group": tree.age_group.index(tree.group_of(band)) if band else UNKNOWN,
        "age_band": tree.age_band.index(band) if band else UNKNOWN,
    }


class CallDataset(Dataset[tuple[Samples, dict[str, int], int]]):
    """Each utterance as the speech the server would hear of it.

    Args:
        corpus: decoded audio and labels.
        tree: label tree.
        seed: of channels and crops.
        crop_seconds: longest stretch of speech, cut out at random; None keeps all of it.
        degrade: draw a telephone channel; else the samples as they are, through the gate only.
    """

    def __init__(
        self,
        corpus: DecodedCorpus,
        tree: LabelTree,
        *,
        seed: int,
        crop_seconds: float | None,
        degrade: bool = True,
    ) -> None:
        self.corpus, self.seed, self.crop_seconds = corpus, seed, crop_seconds
        self.degrade = degrade
        self.epoch = 0
        self.targets = [targets_of(utterance, tree) for utterance in corpus.utterances]

    def __len__(self) -> int:
        return len(self.corpus)

    def __getitem__(self, index: int) -> tuple[Samples, dict[str, int], int]:
        random = np.random.default_rng((self.seed, self.epoch, index))
        samples = self.corpus.samples(index)
        if self.degrade:
            samples = telephone(samples, random)
        speech = speech_of(samples)
        if self.crop_seconds is not None:
            length = int(self.crop_seconds * SAMPLE_RATE)
            start = int(random.integers(0, max(1, len(speech) - length + 1)))
            speech = speech[start : start + length]
        return speech, self.targets[index], index


def collate(examples: list[tuple[Samples, dict[str, int], int]]) -> Batch:
    """Pad to the longest of the batch, up to a whole block."""
    longest = max(1, *(len(speech) for speech, _, _ in examples))
    padded = np.zeros((len(examples), -(-longest // BLOCK) * BLOCK), np.float32)
    for row, (speech, _, _) in zip(padded, examples, strict=True):
        row[: len(speech)] = speech / np.float32(32768)
    return Batch(
        samples=torch.from_numpy(padded),
        lengths=torch.tensor([len(speech) for speech, _, _ in examples]),
        targets={task: torch.tensor([t[task] for _, t, _ in examples]) for task in TASKS},
        rows=torch.tensor([index for _, _, index in examples]),
    )


def sampling_weights(utterances: list[Utterance], power: float) -> NDArray[np.float64]:
    """Probability of each utterance in an epoch, summing to 1.

    Args:
        utterances: of the train split.
        power: 0 leaves gender x band as frequent as it is, 1 makes every cell equal. Within a
            speaker it is always a square root: a talker of a hundred clips counts as ten.
    """
    cells = Counter((u.gender, u.age_band) for u in utterances)
    clips = Counter((u.corpus, u.speaker) for u in utterances)
    weights = np.array(
        [
            cells[u.gender, u.age_band] ** -power * clips[u.corpus, u.speaker] ** -0.5
            for u in utterances
        ]
    )
    normalised: NDArray[np.float64] = weights / weights.sum()
    return normalised


class BalancedSampler(Sampler[int]):
    """Indices of one epoch, drawn with replacement; the same for the same (seed, epoch)."""

    def __init__(self, weights: NDArray[np.float64], seed: int) -> None:
        self._weights, self._seed = weights, seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self._weights)

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng((self._seed, self.epoch))
        return iter(random.choice(len(self), len(self), p=self._weights).tolist())


def evaluation_batches(
    dataset: CallDataset, batch_size: int = 32, workers: int = 0
) -> DataLoader[Batch]:
    """All utterances once, longest first so that padding is small."""
    order = np.argsort([-len(dataset.corpus.samples(i)) for i in range(len(dataset))])
    batches = [order[i : i + batch_size].tolist() for i in range(0, len(order), batch_size)]
    return DataLoader(dataset, batch_sampler=batches, collate_fn=collate, num_workers=workers)  # type: ignore[arg-type]
