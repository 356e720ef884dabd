"""Train a student by plain supervised multi-task learning, then calibrate and export it.

    python -m train.supervised --data runs/shards --out runs/first

Continues by itself from the last finished epoch when run again with the same --out.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from pydantic_settings import CliApp, SettingsConfigDict
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from model.ecapa import COMPACT
from model.frontend import BINS
from model.labels import TASKS
from model.student import Student, StudentConfig
from train.augment import ChannelTilt, FrequencyMask
from train.command import Command
from train.corpora.weights import read_weights
from train.evaluate import run, summary
from train.loading.batches import Batch, Calls, evaluation_batches, training_batches
from train.loading.data import open_split, utterance_of
from train.loading.line import Lines, Preset
from train.loading.sampling import Sampling
from train.loading.talkers import Talkers
from train.objective import supervised_multitask
from train.release import release


class Supervised(Command):
    """Train a student by plain supervised multi-task learning on simulated telephone speech."""

    model_config = SettingsConfigDict(cli_prog_name="python -m train.supervised")

    data: list[str]
    """folder of train.prepare or train.shard, or the address of shards; may be given repeatedly"""
    out: Path
    """folder for checkpoints, log and model file; an unfinished run there is continued"""
    channel: Preset = "full"
    """telephone that everything is heard through: clean, simple or full (train/channel)"""
    exclude: Path | None = None
    """list of probable label errors that train.label_noise wrote"""
    epochs: int = Field(12, ge=1)
    """more than this overfits the few speakers there are"""
    epoch_clips: int | None = Field(None, ge=1)
    """utterances per epoch, after which a checkpoint is written; default: the train split's"""
    dev_clips: int = Field(4000, ge=1)
    """utterances of dev that are evaluated on, kept in memory"""
    workers: int = Field(0, ge=0)
    """processes that decode and degrade; 0 does it between the steps"""
    batch_size: int = Field(64, ge=2)
    """utterances per step"""
    learning_rate: float = Field(2e-3, gt=0)
    """peak, after one epoch of warm-up; falls to zero along a cosine"""
    weight_decay: float = Field(0.02, ge=0)
    label_smoothing: float = Field(0.05, ge=0, lt=1)
    dropout: float = Field(0.2, ge=0, lt=1)
    balance: float = Field(0.5, ge=0, le=1)
    """0 trains on gender x band cells as frequent as they are, 1 makes all equal"""
    shortest_crop: float = Field(2.0, gt=0)
    """seconds of speech: each batch draws its length between these two"""
    longest_crop: float = Field(6.0, gt=0)
    """seconds; shorter utterances are repeated, and every prefix is trained on"""
    tilt_db: float = Field(3.0, ge=0)
    """random response of handset and trunk, standard deviation in dB across the band"""
    mask_bins: int = Field(10, ge=0, lt=BINS)
    """widest of two mel bands flattened in each utterance"""
    age_group_weight: float = 1.0
    age_band_weight: float = 0.7
    ema: float = Field(0.998, ge=0, lt=1)
    """decay per step of the averaged weights that are evaluated and released"""
    seed: int = 1
    threads: int = Field(0, ge=0)
    """torch threads; 0 leaves torch's choice"""

    def cli_cmd(self) -> None:
        """Entry point of the command line."""
        Trainer(self).train()


def _warmed_average(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """Exponential average that is young at first, so that it forgets the random start."""

    def average(averaged: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
        if not averaged.is_floating_point():
            return current
        share = 1.0 - min(decay, (1.0 + int(count)) / (10.0 + int(count)))
        return torch.lerp(averaged, current, share)

    return average


class Trainer:
    """One run: data, network, optimiser and the loop over epochs."""

    def __init__(self, settings: Supervised) -> None:
        self.settings = settings
        if settings.threads:
            torch.set_num_threads(settings.threads)
        torch.manual_seed(settings.seed)
        config = StudentConfig(encoder=COMPACT, dropout=settings.dropout)
        self.tree = config.tree
        self.train_split = open_split(list(settings.data), "train")
        self.sampling = Sampling(
            batch_size=settings.batch_size,
            balance=settings.balance,
            weights=read_weights(settings.exclude) if settings.exclude else {},
            seed=settings.seed,
        )
        self.epoch = 0
        self.steps = -(-(settings.epoch_clips or self.train_split.clips) // settings.batch_size)
        self.talkers = Talkers.of(self.train_split)
        self.dev_split = open_split(list(settings.data), "dev")
        self.dev = evaluation_batches(self.dev_split, self._calls(), limit=settings.dev_clips)
        self.student = Student(config)
        self.augment = torch.nn.Sequential(
            ChannelTilt(BINS, tilt_db=settings.tilt_db), FrequencyMask(widest=settings.mask_bins)
        )
        self.averaged = AveragedModel(
            self.student, avg_fn=_warmed_average(settings.ema), use_buffers=True
        )
        self.optimiser = torch.optim.AdamW(
            self.student.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser,
            settings.learning_rate,
            total_steps=settings.epochs * self.steps,
            pct_start=min(0.5, 1 / settings.epochs),
            cycle_momentum=False,
        )
        self.best: dict[str, Any] = {"score": -1.0}

    @property
    def _checkpoint(self) -> Path:
        return self.settings.out / "last.pt"

    def _parts(self) -> dict[str, Any]:
        return {
            "student": self.student,
            "averaged": self.averaged,
            "optimiser": self.optimiser,
            "schedule": self.schedule,
        }

    def save(self) -> None:
        """Everything needed to go on exactly; replaced in one step, so a kill cannot spoil it."""
        state = {name: part.state_dict() for name, part in self._parts().items()}
        state |= {"epoch": self.epoch, "best": self.best, "rng": torch.get_rng_state()}
        partial = self._checkpoint.with_suffix(".tmp")
        torch.save(state, partial)
        partial.replace(self._checkpoint)

    def resume(self) -> None:
        """Continue from the last finished epoch, if there is one."""
        if self._checkpoint.exists():
            state = torch.load(self._checkpoint, weights_only=True)
            for name, part in self._parts().items():
                part.load_state_dict(state[name])
            self.epoch, self.best = state["epoch"], state["best"]
            torch.set_rng_state(state["rng"])

    def fit_normalisation(self, batches: int = 20) -> None:
        """Fixed statistics of the input features, from the first batches of the train split."""
        frames = []
        with torch.no_grad():
            for batch in islice(self.batches(), batches):
                features = self.student.frontend(batch.samples)
                frames += [f[: n // 80 - 2] for f, n in zip(features, batch.lengths, strict=True)]
        joined = torch.cat(frames)
        self.student.feature_mean.copy_(joined.mean(dim=0))
        self.student.feature_scale.copy_(1 / joined.std(dim=0).clamp(min=0.1))

    def _calls(self, *, crop: tuple[float, float] | None = None) -> Calls:
        lines = Lines(self.settings.channel, self.talkers)
        return Calls(self.tree, lines, self.settings.seed, epoch=self.epoch, crop=crop)

    def batches(self) -> DataLoader[Batch]:
        """Of the epoch at hand."""
        settings = self.settings
        return training_batches(
            self.train_split,
            self._calls(crop=(settings.shortest_crop, settings.longest_crop)),
            self.sampling,
            steps=self.steps,
            workers=settings.workers,
        )

    def step(self, batch: Batch) -> dict[str, float]:
        """One update of the weights; returns losses by task."""
        settings = self.settings
        weight = {
            "gender": 1.0,
            "age_group": settings.age_group_weight,
            "age_band": settings.age_band_weight,
        }
        output = self.student(batch.samples, batch.lengths, self.augment)
        losses = supervised_multitask(
            output, batch.targets, label_smoothing=settings.label_smoothing
        )
        total = torch.stack([weight[task] * loss for task, loss in losses.items()]).sum()
        self.optimiser.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), 2.0)
        self.optimiser.step()
        if self.schedule.last_epoch < self.schedule.total_steps - 1:
            self.schedule.step()
        self.averaged.update_parameters(self.student)
        return {task: loss.item() for task, loss in losses.items()}

    def train_epoch(self) -> dict[str, float]:
        """One epoch; returns mean losses by task."""
        self.student.train()
        totals: dict[str, float] = dict.fromkeys(TASKS, 0.0)
        title = f"epoch {self.epoch + 1}/{self.settings.epochs}"
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeRemainingColumn(), transient=True) as progress:
            for batch in progress.track(self.batches(), description=title):
                for task, loss in self.step(batch).items():
                    totals[task] += loss
        return {task: total / self.steps for task, total in totals.items()}

    def released(self) -> Student:
        """The averaged weights as a student ready for evaluation."""
        student = self.averaged.module
        assert isinstance(student, Student)
        student.eval()
        return student

    def train_one(self) -> dict[str, Any]:
        """One epoch, from the last finished one: train, evaluate on dev, save, log."""
        self.settings.out.mkdir(parents=True, exist_ok=True)
        if self.epoch == 0:
            self.fit_normalisation()
        began = time.monotonic()
        losses = self.train_epoch()
        scores = summary(run(self.released(), self.dev), self.tree)
        self.epoch += 1
        score = scores["gender"]["f1"] + scores["age_group"]["f1"]
        if score > self.best["score"]:
            weights = {k: v.clone() for k, v in self.averaged.module.state_dict().items()}
            self.best = {"score": score, "epoch": self.epoch, "weights": weights}
        self.save()
        entry = {
            "epoch": self.epoch,
            "seconds": round(time.monotonic() - began, 1),
            "loss": losses,
            "dev_f1": {task: s["f1"] for task, s in scores.items()},
            "dev_ece": {task: s["ece"] for task, s in scores.items()},
        }
        with (self.settings.out / "log.jsonl").open("a") as log:
            log.write(json.dumps(entry) + os.linesep)
        return entry

    def train(self) -> None:
        """All remaining epochs; then the best of them on dev is calibrated and exported."""
        self.resume()
        while self.epoch < self.settings.epochs:
            print(json.dumps(self.train_one()), flush=True)
        self.averaged.module.load_state_dict(self.best["weights"])
        release(
            self.released(),
            self.dev,
            settings={
                **self.settings.model_dump(mode="json"),
                "best_epoch": self.best["epoch"],
                "doubted_labels": len(self.sampling.weights),
            },
            data=self.train_split.licences,
            people={cut.id: utterance_of(cut) for cut in self.dev_split.cuts()},
            out=self.settings.out,
        )


if __name__ == "__main__":
    CliApp.run(Supervised)
