"""Cuts -> degraded, speech-gated, cropped and padded batches of tensors.

Every example draws from its own generator, made of seed, epoch and its own id: the result does
not depend on the number of workers, or on where a run was resumed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from lhotse import CutSet, MonoCut
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from model.classifier import BLOCK
from model.labels import TASKS, LabelTree
from streamer.audio.codec import SAMPLE_RATE, Samples
from streamer.audio.speech_gate import speech_of
from train.corpora.audio import resample
from train.corpora.utterance import CALL, Utterance
from train.data.dataset import Split, audio_of, utterance_of
from train.data.sampling import EpochSampler, Sampling, generator

UNKNOWN = -1
"""Target of a task whose label is unknown."""

Channel = Callable[[Samples, np.random.Generator, Utterance], Samples]
"""What a call does to an utterance: int16 at 8 kHz in and out."""

_log = logging.getLogger(__name__)


class Example(NamedTuple):
    """One utterance for the student, with its undegraded original.

    Attributes:
        speech: int16 [n] at 8 kHz: what the server's gate lets through of the degraded call.
        clean: int16 [m] at the teacher's rate, the whole undegraded utterance; None unless
            requested.
        targets: class index by task.
    """

    speech: Samples
    clean: Samples | None
    targets: dict[str, int]


class Batch(NamedTuple):
    """One step's worth of speech.

    Attributes:
        samples: float32 [B, L] in [-1, 1], zero-padded, L a multiple of the block.
        lengths: int64 [B], samples of each.
        targets: int64 [B] by task; -1 where unknown.
        ids: cut of each row.
        clean: float32 [B, M], the undegraded twin of each row at the teacher's rate; None unless
            requested.
        clean_lengths: int64 [B], samples of each twin; None without them.
    """

    samples: Tensor
    lengths: Tensor
    targets: dict[str, Tensor]
    ids: list[str]
    clean: Tensor | None = None
    clean_lengths: Tensor | None = None


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


@dataclass(frozen=True)
class TelephoneDataset(Dataset[Batch]):
    """Batches of cuts in, batches of telephone speech out.

    Attributes:
        tree: label tree.
        channel: draws and applies a telephone channel; None passes the samples as they are.
        seed: of channels and crops.
        epoch: changes every draw.
        crop: shortest and longest stretch of speech, seconds, drawn for each batch; None keeps all
            of every utterance. Shorter utterances are repeated to fill it: in a corpus where one
            class speaks in short clips, length would give the class away.
        clean_rate: sample rate of the undegraded twin, Hz; None leaves it out.
        clean_crop: longest stretch of the twin, seconds, cut out at random.
    """

    tree: LabelTree
    channel: Channel | None
    seed: int
    epoch: int = 0
    crop: tuple[float, float] | None = None
    clean_rate: int | None = None
    clean_crop: float = 6.0

    def example(self, cut: MonoCut, crop: float | None = None) -> Example:
        """One cut as one call.

        Args:
            cut: with one supervision; a finished call of train.simulate_calls is only cropped.
            crop: seconds of speech at most; None keeps what there is.

        Raises:
            OSError: its audio cannot be read.
            ValueError: a twin is requested and there is none, or a label is foreign to the tree.
        """
        utterance = utterance_of(cut)
        random = generator(self.seed, self.epoch, cut.id)
        clean: Samples | None = None
        if utterance.line == CALL:
            if self.clean_rate is not None:
                raise ValueError(
                    f"{cut.id}: no undegraded twin (clean_rate={self.clean_rate}), "
                    "for train.simulate_calls keeps only the call; read the folder it was made from"
                )
            speech = audio_of(cut, SAMPLE_RATE)
        else:
            if self.clean_rate is None:
                samples = audio_of(cut, SAMPLE_RATE)
            else:
                clean = audio_of(cut, self.clean_rate)
                samples = resample(clean, self.clean_rate, SAMPLE_RATE)
                clean = _crop(clean, round(self.clean_crop * self.clean_rate), random)
            if self.channel is not None:
                samples = self.channel(samples, random, utterance)
            speech = speech_of(samples)
        if crop is not None:
            speech = filled(speech, round(crop * SAMPLE_RATE), random)
        return Example(speech, clean, targets_of(utterance, self.tree))

    def examples(
        self, cuts: Iterable[MonoCut], crop: float | None = None
    ) -> Iterator[tuple[str, Example]]:
        """Id and example of each cut; one that cannot be decoded is left out, named in the log."""
        for cut in cuts:
            try:
                yield cut.id, self.example(cut, crop)
            except OSError as error:
                _log.warning("left out %s: %s", cut.id, error)

    def __getitem__(self, cuts: CutSet) -> Batch:
        """A batch; raises OSError if not one of its cuts can be decoded."""
        examples = dict(self.examples(cuts, self._crop_of(cuts)))
        if not examples:
            raise OSError(f"none of a batch could be decoded, the first one was {cuts[0].id}")
        return collate(examples)

    def _crop_of(self, cuts: CutSet) -> float | None:
        """Length of a batch: log-uniform, for a second matters more early in a call than late."""
        if self.crop is None:
            return None
        shortest, longest = self.crop
        chance = generator(self.seed, self.epoch, "crop", cuts[0].id).random()
        return float(shortest * (longest / shortest) ** chance)


def _crop(samples: Samples, length: int, random: np.random.Generator) -> Samples:
    start = int(random.integers(0, max(1, len(samples) - length + 1)))
    return samples[start : start + length]


def filled(speech: Samples, length: int, random: np.random.Generator) -> Samples:
    """``length`` samples of ``speech``: a stretch of it, or all of it again and again."""
    if not len(speech) or len(speech) >= length:
        return _crop(speech, length, random)
    return np.resize(speech, length)


def _padded(rows: list[Samples], multiple: int) -> tuple[Tensor, Tensor]:
    longest = max(1, *(len(row) for row in rows))
    padded = np.zeros((len(rows), -(-longest // multiple) * multiple), np.float32)
    for into, row in zip(padded, rows, strict=True):
        np.divide(row, np.float32(32768), out=into[: len(row)])
    return torch.from_numpy(padded), torch.tensor([len(row) for row in rows])


def collate(examples: Mapping[str, Example]) -> Batch:
    """Examples by cut id, padded to the longest of them, up to a whole block."""
    rows = examples.values()
    samples, lengths = _padded([e.speech for e in rows], BLOCK)
    twins = [e.clean for e in rows if e.clean is not None]
    clean, clean_lengths = _padded(twins, 1) if twins else (None, None)
    targets = {task: torch.tensor([e.targets[task] for e in rows]) for task in TASKS}
    return Batch(samples, lengths, targets, list(examples), clean, clean_lengths)


def training_batches(
    split: Split,
    calls: TelephoneDataset,
    sampling: Sampling,
    *,
    steps: int,
    start: int = 0,
    workers: int = 0,
) -> DataLoader[Batch]:
    """The batches of epoch ``calls.epoch``, from step ``start`` on.

    Args:
        split: what to draw from.
        calls: what becomes of a cut.
        sampling: which cuts.
        steps: batches in the epoch.
        start: steps already taken before an interruption.
        workers: processes that decode and degrade; 0 does it in this one.
    """
    sampler = EpochSampler(split, sampling, calls.epoch, steps=steps, start=start)
    return DataLoader(calls, batch_size=None, sampler=sampler, num_workers=workers)


def evaluation_batches(
    split: Split, calls: TelephoneDataset, *, batch_size: int = 32, limit: int | None = None
) -> list[Batch]:
    """Utterances of a split once each, longest first so that padding is small, kept in memory.

    Args:
        split: of which the first ``limit`` are taken; train.prepare shuffles them.
        calls: what becomes of a cut; with the same seed it is the same on every run.
        batch_size: utterances per batch.
        limit: None takes all.
    """
    total = split.clips if limit is None else min(limit, split.clips)
    cuts = track(islice(split.cuts(), limit), "decoding", total)
    ordered = sorted(calls.examples(cuts), key=lambda pair: -len(pair[1].speech))
    return [collate(dict(ordered[i : i + batch_size])) for i in range(0, len(ordered), batch_size)]
