"""From flags to a run: open the data, build the network, fit the normalisation, begin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import torch

from model.classifier import SpeakerClassifier
from model.frontend import BINS
from train.checkpoint import load_student
from train.corpora.utterance import Utterance
from train.corpora.weights import read_weights
from train.data.batching import Batch, TelephoneDataset, evaluation_batches, training_batches
from train.data.dataset import Split, open_split, utterance_of
from train.data.sampling import Sampling
from train.method.augment import ChannelTilt, FrequencyMask, FrequencyWarp
from train.method.teacher import Embeddings
from train.method.training_step import TrainingStep
from train.trainer.settings import Training
from train.trainer.trainer import Trainer, TrainingData

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Hearing = Callable[[int, tuple[float, float] | None], TelephoneDataset]
"""Epoch and crop (None: whole utterances, as on dev) -> what becomes of a cut."""

_DICTIONARY = "heads.prior.dictionary"
"""K of a student: of this run's flags and teacher, whatever weights it starts from."""
_FITTED_BATCHES = 20
"""First batches of training, from which mean and deviation of the features are taken."""


@dataclass
class Corpus:
    """Opened splits of a run, and how they are drawn from.

    Attributes:
        train, dev: splits.
        sampling: of training.
        steps: of an epoch.
    """

    train: Split
    dev: Split
    sampling: Sampling
    steps: int

    def labels_by_cut(self) -> dict[str, Utterance]:
        """Labels of dev by cut id."""
        return {cut.id: utterance_of(cut) for cut in self.dev.cuts()}


def open_corpus(settings: Training, fabric: Fabric) -> Corpus:
    """The splits of a run; raises OSError or ValueError where there are none."""
    train = open_split(list(settings.data), "train")
    sampling = Sampling(
        batch_size=settings.batch_size,
        balance=settings.balance,
        weights=read_weights(settings.exclude) if settings.exclude else {},
        seed=settings.seed,
        rank=fabric.global_rank,
        world=fabric.world_size,
    )
    clips = settings.epoch_clips or train.utterances
    steps = -(-clips // (settings.batch_size * fabric.world_size))
    return Corpus(train, open_split(list(settings.data), "dev"), sampling, steps)


def augmentation(settings: Training, sample_rate: int) -> torch.nn.Module:
    """Other speakers, and the style of handset and trunk, on fbank frames."""
    return torch.nn.Sequential(
        FrequencyWarp(BINS, sample_rate, widest=settings.warp),
        ChannelTilt(BINS, tilt_db=settings.tilt_db),
        FrequencyMask(widest=settings.mask_bins),
    )


def begin(
    settings: Training,
    lesson: TrainingStep,
    corpus: Corpus,
    hearing: Hearing,
    fabric: Fabric,
    teacher: Embeddings | None = None,
) -> Trainer:
    """A loop ready to go: resumed, or initialised and with its normalisation fitted.

    Args:
        settings: flags of the run.
        lesson: student and objective.
        corpus: opened data.
        hearing: what becomes of a cut.
        fabric: devices and processes.
        teacher: embeddings to be distilled.
    """

    def batches(epoch: int, start: int) -> torch.utils.data.DataLoader:  # type: ignore[type-arg]
        return training_batches(
            corpus.train,
            hearing(epoch, (settings.shortest_crop, settings.longest_crop)),
            corpus.sampling,
            steps=corpus.steps,
            start=start,
            workers=settings.workers,
        )

    dev: list[Batch] = []
    if fabric.is_global_zero:  # the others only wait while it judges
        dev = evaluation_batches(corpus.dev, hearing(0, None), limit=settings.dev_clips)
    student = lesson.student
    fresh = not (settings.out / "last.pt").exists()
    if fresh and settings.init is not None:
        source = load_student(settings.init)
        if source.config.encoder != student.config.encoder:
            raise ValueError(f"--init {settings.init.name}: its encoder is another")
        ours = student.state_dict()
        fitting = {
            name: value
            for name, value in source.state_dict().items()
            if name in ours and ours[name].shape == value.shape and name != _DICTIONARY
        }
        student.load_state_dict(fitting, strict=False)
    elif fresh:
        fit_normalisation(student, batches(0, 0))
    loop = Trainer(settings, lesson, TrainingData(batches, corpus.steps, dev, teacher), fabric)
    loop.resume()
    return loop


@torch.no_grad()
def fit_normalisation(student: SpeakerClassifier, batches: torch.utils.data.DataLoader) -> None:  # type: ignore[type-arg]
    """Fixed statistics of the input features, from the first batches of training."""
    hop = student.frontend.hop
    frames = []
    for batch in islice(batches, _FITTED_BATCHES):
        features = student.features(batch.samples)
        # without the zeros before the first sample
        frames += [
            f[2 : max(2, n // hop - 2)] for f, n in zip(features, batch.lengths, strict=True)
        ]
    joined = torch.cat(frames)
    student.feature_mean.copy_(joined.mean(dim=0))
    student.feature_scale.copy_(1 / joined.std(dim=0).clamp(min=0.1))
