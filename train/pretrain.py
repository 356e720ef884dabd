"""Train a teacher on clean wideband speech: the paper's pre-training row.

    python -m train.pretrain --data runs/shards --out runs/teacher

Continues by itself when run again with the same --out.
"""

from __future__ import annotations

import json
import sys

import torch
from pydantic import Field
from pydantic_settings import CliApp, SettingsConfigDict

from model.classifier import SpeakerClassifier, StudentConfig
from model.frontend import WIDEBAND_RATE
from model.heads import HeadsConfig
from model.labels import DEFAULT_TREE
from train.data.batching import TelephoneDataset
from train.data.clean import CleanSpeech
from train.evaluation.evaluate import run, summary
from train.method.objective import Objective
from train.method.training_step import TrainingStep
from train.trainer.devices import launch
from train.trainer.settings import Backbone, Training
from train.trainer.setup import augmentation, begin, open_corpus


class Pretrain(Training):
    """Train a teacher: an offline encoder on clean speech at 16 kHz, cross-entropy of every task.

    Its embeddings are what train.distill teaches, and what the dictionary K is made of.
    """

    model_config = SettingsConfigDict(cli_prog_name="python -m train.pretrain")

    backbone: Backbone = "ecapa-res2"
    """ecapa: depthwise, the cheap one; ecapa-res2: the paper's; resnet: ResNet34's shape; resnet10:
    one block a stage and half the frames, a sixth of its cost"""
    streaming: bool = False
    """a teacher is given whole utterances; only offline encoders can be wideband"""
    embedding: int = Field(192, ge=1)
    """width of the representation that is distilled"""

    def cli_cmd(self) -> None:
        """Entry point of the command line."""
        try:
            pretrain(self)
        except (OSError, ValueError, FloatingPointError) as error:
            sys.exit(f"pretrain: {error}")


def pretrain(settings: Pretrain) -> SpeakerClassifier:
    """Train, and write ``dev.json`` beside the checkpoint; returns the teacher.

    Raises:
        OSError, ValueError: data, checkpoint or flags cannot be used.
        FloatingPointError: training diverged.
    """
    if settings.streaming:
        raise ValueError(
            "--streaming: a teacher is given whole utterances at 16 kHz; "
            "students that stream are made by train.distill"
        )
    fabric = launch(settings)
    torch.manual_seed(settings.seed)
    tree = DEFAULT_TREE
    corpus = open_corpus(settings, fabric)
    heads = HeadsConfig(embedding=settings.embedding, dropout=settings.dropout)
    config = StudentConfig(settings.encoder(), heads, tree, sample_rate=WIDEBAND_RATE)
    objective = Objective(
        label_smoothing=settings.label_smoothing,
        age_group_weight=settings.age_group_weight,
        age_band_weight=settings.age_band_weight,
    )
    lesson = TrainingStep(
        SpeakerClassifier(config),
        objective,
        augment=augmentation(settings, WIDEBAND_RATE),
        compiled=settings.compile,
    )

    def hearing(epoch: int, crop: tuple[float, float] | None) -> TelephoneDataset:
        return CleanSpeech(tree, None, settings.seed, epoch=epoch, crop=crop)

    loop = begin(settings, lesson, corpus, hearing, fabric)
    teacher = loop.train()
    if fabric.is_global_zero:
        scores = summary(run(teacher, loop.material.dev), tree)
        report = {
            "scores": scores,
            "settings": settings.to_cli_args(),
            "data": corpus.train.licences,
        }
        (settings.out / "dev.json").write_text(json.dumps(report, indent=1))
    return teacher


if __name__ == "__main__":
    CliApp.run(Pretrain)
