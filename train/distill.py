"""Train a student by the paper's method, or any part of it, then calibrate and export it.

    python -m train.pretrain --data runs/shards --out runs/teacher
    python -m train.distill --preset mkd+ch --data runs/shards --teacher runs/teacher --out runs/x

Continues by itself when run again with the same --out.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from pydantic_settings import CliApp, SettingsConfigDict

from model.classifier import SpeakerClassifier, StudentConfig
from model.frontend import SAMPLE_RATE
from model.heads import HeadsConfig
from model.labels import DEFAULT_TREE
from train.data.babble import BabblePool
from train.data.batching import TelephoneDataset
from train.data.channel_sampler import ChannelSampler, Preset
from train.data.dataset import open_split
from train.evaluation.evaluate import run, summary
from train.method.mixup import SpecAugment, TemporalFrequencyMixup
from train.method.objective import AgeLoss, Dependency, Distillation, Objective
from train.method.teacher import Embeddings, embeddings_of
from train.method.training_step import TrainingStep
from train.trainer.devices import launch
from train.trainer.settings import Training
from train.trainer.setup import augmentation, begin, open_corpus

Knowledge = Literal["none", "teacher", "zeroed", "shuffled", "mean"]
Hierarchy = Literal["separate", "conveyed", "marginalised"]

_PLAIN: dict[str, Any] = {
    "mixup": False,
    "distillation": "none",
    "age_loss": "cross-entropy",
    "dependency": "none",
    "hierarchy": "separate",
    "knowledge": "none",
    "invariance_weight": 0.0,
}
_MKD = {"mixup": True}
_CAUSAL = {
    "age_loss": "asymmetric",
    "dependency": "repaired",
    "hierarchy": "conveyed",
    "knowledge": "teacher",
    "invariance_weight": 0.5,
}
PRESETS: dict[str, dict[str, Any]] = {
    "base": _PLAIN,
    "mkd-mse": _PLAIN | _MKD | {"distillation": "mse"},
    "mkd-cos": _PLAIN | _MKD | {"distillation": "cosine"},
    "ch": _PLAIN | _CAUSAL,
    "mkd+ch": _PLAIN | _CAUSAL | _MKD | {"distillation": "cosine"},
}
"""Rows of the paper's table; what a preset sets, a flag of the same name overrides."""


class Distill(Training):
    """Train a student: mixup-based distillation (MKD) and causal hierarchical learning (CH).

    A preset is a row of the paper's table. Every term can be switched by its own flag, which
    overrides the preset. Terms that need a teacher take the run of train.pretrain.
    """

    model_config = SettingsConfigDict(cli_prog_name="python -m train.distill")

    preset: Literal["base", "mkd-mse", "mkd-cos", "ch", "mkd+ch"] = "mkd+ch"
    """base: cross-entropy; mkd-*: mixup and distillation; ch: asymmetric and dependency loss,
    dictionary K, hierarchy, invariance; mkd+ch: everything"""
    channel: Preset = "full"
    """simulated telephone: clean, simple or full (train/telephone)"""
    teacher: Path | None = None
    """run of train.pretrain; needed by distillation and by the dictionary K"""
    clean_data: list[str] | None = None
    """clean twins for the teacher, if --data is already degraded"""

    mixup: bool | None = None
    """stage 1: temporal-frequency mixup"""
    mixup_window: int = Field(10, ge=0)
    """T, fbank frames of 10 ms"""
    mixup_lambda: float = Field(0.7, ge=0, le=1)
    """share of the utterance itself"""
    distillation: Distillation | None = None
    """stage 2: distance to the teacher's embedding of the clean twin: none, mse or cosine"""
    distillation_weight: float = Field(1.0, ge=0)
    """the poster's lambda of L_dist"""
    age_loss: AgeLoss | None = None
    """stage 3: cross-entropy, asymmetric (sigmoid) or asymmetric-single (softmax)"""
    gamma_negative: float = Field(4.0, ge=0)
    """the authors' order of tuning: (0, 0, 0), (2, 2, 0), (2, 1, 0), (4, 1, 0.05)"""
    gamma_positive: float = Field(1.0, ge=0)
    margin: float = Field(0.05, ge=0, lt=1)
    dependency: Dependency | None = None
    """penalty for contradicting levels: none, repaired, smooth, or literal as printed"""
    dependency_weight: float = Field(0.3, ge=0)
    hierarchy: Hierarchy | None = None
    """how the age group follows from the band: separate, conveyed (Y -> H -> Y) or marginalised"""
    knowledge: Knowledge | None = None
    """X -> Z <- K: none, teacher, or for comparison zeroed, shuffled, or everywhere the mean"""
    invariance_weight: float | None = Field(None, ge=0)
    """of the divergence between predictions on plain and on styled speech (Z -> H -> Y)"""
    hidden: int = Field(64, ge=1)
    """width of each task's hidden representation, where the hierarchy conveys one"""

    class_prior: Literal["keep", "dev"] = "keep"
    """of the answers to the ages: keep answers by the posterior, dev shifts that of each class by
    what suits macro F1 on dev"""

    def cli_cmd(self) -> None:
        """Entry point of the command line."""
        try:
            distill(self)
        except (OSError, ValueError, FloatingPointError) as error:
            sys.exit(f"distill: {error}")

    def resolved(self) -> dict[str, Any]:
        """What the preset sets, with the flags that override it."""
        given = {name: getattr(self, name) for name in _PLAIN}
        return PRESETS[self.preset] | {k: v for k, v in given.items() if v is not None}

    def objective(self) -> Objective:
        """Terms and weights; raises ValueError for a combination that makes no sense."""
        chosen = self.resolved()
        if chosen["hierarchy"] == "marginalised" and chosen["age_loss"] == "asymmetric":
            raise ValueError(
                "--hierarchy marginalised gives probabilities, and --age-loss asymmetric needs a "
                "logit for each class: take asymmetric-single or cross-entropy"
            )
        if self.class_prior == "dev" and not self.streaming:
            raise ValueError("--class-prior dev is made at export: offline students have none")
        return Objective(
            distillation=chosen["distillation"],
            distillation_weight=self.distillation_weight,
            age_loss=chosen["age_loss"],
            gamma_negative=self.gamma_negative,
            gamma_positive=self.gamma_positive,
            margin=self.margin,
            label_smoothing=self.label_smoothing,
            age_group_weight=self.age_group_weight,
            age_band_weight=self.age_band_weight,
            dependency=chosen["dependency"],
            dependency_weight=self.dependency_weight,
            invariance_weight=chosen["invariance_weight"],
        )

    def needs_teacher(self) -> bool:
        """Whether a term asks for one."""
        chosen = self.resolved()
        return {chosen["distillation"], chosen["knowledge"]} != {"none"}


def dictionary(found: Embeddings, kinds: int, knowledge: Knowledge, seed: int) -> torch.Tensor:
    """K of the run, float32 [kinds, E]; the spoilt ones are for comparison (paper.md 2.4)."""
    known = found.dictionary(kinds)
    if knowledge == "zeroed":
        return torch.zeros_like(known)
    if knowledge == "shuffled":
        order = torch.randperm(kinds, generator=torch.Generator().manual_seed(seed))
        return known[order]
    if knowledge == "mean":
        return known.mean(dim=0, keepdim=True).expand_as(known).clone()
    return known


def distill(settings: Distill) -> SpeakerClassifier:
    """Train; a streaming student is calibrated and exported. Returns the student.

    Raises:
        OSError, ValueError: data, teacher, checkpoint or flags cannot be used.
        FloatingPointError: training diverged.
    """
    # Two seconds, which --help need not wait for; but before the hours, not after them.
    from train.release.export import release  # noqa: PLC0415

    objective, chosen = settings.objective(), settings.resolved()
    fabric = launch(settings)
    torch.manual_seed(settings.seed)
    tree = DEFAULT_TREE
    corpus = open_corpus(settings, fabric)
    taught: Embeddings | None = None
    if settings.needs_teacher():
        if settings.teacher is None:
            raise ValueError(f"--preset {settings.preset} with these flags needs a --teacher")
        clean = settings.clean_data or settings.data
        with fabric.rank_zero_first():
            split = open_split(list(clean), "train")
            taught = embeddings_of(settings.teacher, split, tree, fabric.device)
    heads = HeadsConfig(
        embedding=settings.embedding,
        dropout=settings.dropout,
        hierarchy=chosen["hierarchy"],
        hidden=settings.hidden if chosen["hierarchy"] == "conveyed" else 0,
        knowledge=taught.matrix.shape[1] if taught and chosen["knowledge"] != "none" else 0,
    )
    student = SpeakerClassifier(StudentConfig(settings.encoder(), heads, tree))
    if student.heads.prior is not None and taught is not None:
        kinds = len(tree.gender) * len(tree.age_band)
        student.heads.prior.dictionary.copy_(
            dictionary(taught, kinds, chosen["knowledge"], settings.seed)
        )
    lesson = TrainingStep(
        student,
        objective,
        augment=augmentation(settings, SAMPLE_RATE),
        mixup=TemporalFrequencyMixup(
            SpecAugment(), window=settings.mixup_window, lam=settings.mixup_lambda
        )
        if chosen["mixup"]
        else None,
        taught=taught.matrix.shape[1] if taught and chosen["distillation"] != "none" else 0,
        compiled=settings.compile,
    )
    lines = ChannelSampler(settings.channel, BabblePool.of(corpus.train))

    def hearing(epoch: int, crop: tuple[float, float] | None) -> TelephoneDataset:
        return TelephoneDataset(tree, lines, settings.seed, epoch=epoch, crop=crop)

    loop = begin(settings, lesson, corpus, hearing, fabric, taught if lesson.project else None)
    student = loop.train().cpu()  # calibration, probe and export are no work for a GPU
    if fabric.is_global_zero:
        recipe = {
            "command": " ".join(["python -m train.distill", *settings.to_cli_args()]),
            "seed": settings.seed,
            "best_epoch": loop.at.best["epoch"],
            "doubted_labels": len(corpus.sampling.weights),
            **chosen,
        }
        if settings.streaming:
            release(
                student,
                loop.material.dev,
                recipe=recipe,
                data=corpus.train.licences,
                people=corpus.labels_by_cut(),
                out=settings.out,
                shifted=settings.class_prior == "dev",
            )
        else:
            scores = summary(run(student, loop.material.dev), tree)
            report = {"scores": scores, "recipe": recipe}
            (settings.out / "dev.json").write_text(json.dumps(report, indent=1))
    return student


if __name__ == "__main__":
    CliApp.run(Distill)
