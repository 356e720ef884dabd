"""The loop over steps and epochs, on any number of processes: resume, average, evaluate, log."""

from __future__ import annotations

import json
import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter

from model.classifier import SpeakerClassifier
from model.labels import TASKS
from train import checkpoint
from train.data.batching import Batch
from train.data.sampling import generator
from train.evaluation.evaluate import run, summary
from train.method.teacher import Embeddings
from train.method.training_step import TrainingStep
from train.trainer.settings import Training, check_same_flags

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass
class TrainingData:
    """What a run learns from.

    Attributes:
        batches: those of an epoch, from a step on.
        steps: of an epoch.
        dev: evaluated on after every epoch.
        teacher: embeddings of the clean twins; None without distillation.
    """

    batches: Callable[[int, int], DataLoader[Batch]]
    steps: int
    dev: list[Batch]
    teacher: Embeddings | None = None


@dataclass
class TrainerState:
    """How far a run has come.

    Attributes:
        epoch: finished epochs.
        step: finished steps of the epoch at hand.
        totals: sums of the terms over them.
        best: score on dev, epoch and weights of the best epoch.
        seconds: spent in the epoch at hand.
        entries: of the log, one per finished epoch.
    """

    epoch: int = 0
    step: int = 0
    totals: dict[str, float] = field(default_factory=dict)
    best: dict[str, Any] = field(default_factory=lambda: {"score": -1.0, "epoch": 0})
    seconds: float = 0.0
    entries: list[dict[str, Any]] = field(default_factory=list)


def _warmed_average(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """Exponential average that is young at first, so that it forgets the random start."""

    def average(averaged: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
        if not averaged.is_floating_point():
            return current
        share = 1.0 - min(decay, (1.0 + int(count)) / (10.0 + int(count)))
        return torch.lerp(averaged, current, share)

    return average


class Trainer:
    """One run: optimiser, schedule, averaged weights and the loop.

    Args:
        settings: flags of the run.
        lesson: the student and its objective.
        material: what it learns from.
        fabric: as :func:`launch` gives it.
    """

    def __init__(
        self, settings: Training, lesson: TrainingStep, material: TrainingData, fabric: Fabric
    ) -> None:
        self.settings, self.material, self.fabric = settings, material, fabric
        self.lesson = lesson
        self.tree = lesson.student.config.tree
        self.at = TrainerState()
        self.averaged = AveragedModel(
            lesson.student, avg_fn=_warmed_average(settings.ema), use_buffers=True
        ).to(fabric.device)
        optimiser = torch.optim.AdamW(
            lesson.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser,
            settings.learning_rate,
            total_steps=settings.epochs * material.steps,
            pct_start=min(0.5, 1 / settings.epochs),
            cycle_momentum=False,
        )
        self.wrapped, self.optimiser = fabric.setup(lesson, optimiser)
        self._saved = time.monotonic()

    def _parts(self) -> dict[str, Any]:
        return {
            "lesson": self.lesson,
            "averaged": self.averaged,
            "optimiser": self.optimiser,
            "schedule": self.schedule,
        }

    def save(self) -> None:
        """Everything needed to go on exactly, from the first process."""
        self._saved = time.monotonic()
        if self.fabric.is_global_zero:
            state = {name: part.state_dict() for name, part in self._parts().items()}
            state |= vars(self.at) | {"config": self.lesson.student.config.to_dict()}
            state["words"] = self.settings.to_cli_args()
            state["scaler"] = self.fabric.strategy.precision.state_dict()  # empty but for 16-mixed
            checkpoint.save(self.settings.out / checkpoint.FILE, state)

    def resume(self) -> bool:
        """Go on where a checkpoint of this run left off; False if there is none.

        Raises:
            ValueError: it cannot be gone on from with these flags.
        """
        path = self.settings.out / checkpoint.FILE
        if not path.exists():
            return False
        try:
            # To the CPU: where AdamW's step counts lie on a GPU, every update waits for them.
            state = torch.load(path, weights_only=True, map_location="cpu")
            check_same_flags(self.settings.to_cli_args(), state["words"])
            for name, part in self._parts().items():
                part.load_state_dict(state[name])
            self.at = TrainerState(**{name: state[name] for name in vars(self.at)})
        except (KeyError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
            raise ValueError(f"{path}: cannot go on from here with these flags: {error}") from error
        self.fabric.strategy.precision.load_state_dict(state.get("scaler", {}))
        if self.fabric.is_global_zero:
            self._write_log()  # a kill may have come between checkpoint and log
        return True

    def step(self, batch: Batch) -> dict[str, float]:
        """One update of the weights; returns the weighted terms of the objective.

        Raises:
            FloatingPointError: the loss or its gradient is not finite.
        """
        # Seeded by position: the same after any interruption, on any number of processes.
        seed = generator(
            self.settings.seed, self.at.epoch, self.at.step, self.fabric.global_rank
        ).integers(2**31)
        torch.manual_seed(int(seed))
        device = self.fabric.device
        teacher = known = None
        if self.material.teacher is not None:
            teacher, known = (part.to(device) for part in self.material.teacher.rows(batch.ids))
        terms: dict[str, Tensor] = self.wrapped(
            batch.samples.to(device),
            batch.lengths.to(device),
            {task: target.to(device) for task, target in batch.targets.items()},
            teacher,
            known,
        )
        total = torch.stack(list(terms.values())).sum()
        if not torch.isfinite(total):
            shown = {name: value.item() for name, value in terms.items()}
            raise FloatingPointError(
                f"epoch {self.at.epoch + 1}, step {self.at.step}: loss is not finite: {shown}"
            )
        self.optimiser.zero_grad()
        self.fabric.backward(total)
        norm = self.fabric.clip_gradients(
            self.wrapped, self.optimiser, max_norm=2.0, error_if_nonfinite=False
        )
        assert norm is not None
        # With 16-mixed an overflow is part of the search for a scale: that step is left out.
        if not torch.isfinite(norm) and self.settings.precision != "16-mixed":
            raise FloatingPointError(
                f"epoch {self.at.epoch + 1}, step {self.at.step}: the gradient is not finite"
            )
        self.optimiser.step()
        if self.schedule.last_epoch < self.schedule.total_steps - 1:
            self.schedule.step()
        self.averaged.update_parameters(self.lesson.student)
        return {name: value.item() for name, value in terms.items()}

    def released(self) -> SpeakerClassifier:
        """The averaged weights, ready for evaluation."""
        student = self.averaged.module
        assert isinstance(student, SpeakerClassifier)
        student.eval()
        return student

    @contextmanager
    def _progress(self) -> Iterator[Callable[[], None]]:
        """Bar over all steps of the run with the time that is left; on the first process only."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        total = self.settings.epochs * self.material.steps
        with Progress(
            *columns,
            TimeRemainingColumn(),
            transient=True,
            disable=not self.fabric.is_global_zero,
        ) as progress:
            task = progress.add_task("", total=total)

            def show() -> None:
                progress.update(
                    task,
                    completed=self.at.epoch * self.material.steps + self.at.step,
                    description=f"epoch {self.at.epoch + 1}/{self.settings.epochs}",
                )

            show()
            yield show

    def train_one(self, show: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """The rest of the epoch at hand: train, evaluate on dev, save, log."""
        self.settings.out.mkdir(parents=True, exist_ok=True)
        began, before = time.monotonic(), self.at.seconds
        self.lesson.train()
        for batch in self.material.batches(self.at.epoch, self.at.step):
            for name, value in self.step(batch).items():
                self.at.totals[name] = self.at.totals.get(name, 0.0) + value
            self.at.step += 1
            self.at.seconds = before + time.monotonic() - began
            show()
            if time.monotonic() - self._saved > 60 * self.settings.save_minutes:
                self.save()
        entry = self._judge()
        entry["seconds"] = round(before + time.monotonic() - began, 1)
        self.at.epoch, self.at.step, self.at.totals, self.at.seconds = entry["epoch"], 0, {}, 0.0
        self.at.entries.append(entry)
        self.save()
        if self.fabric.is_global_zero:
            self._write_log()
            self._show(entry)
        self.fabric.barrier()
        return entry

    def _judge(self) -> dict[str, Any]:
        """Scores of the averaged weights on dev; keeps them if they are the best so far."""
        entry: dict[str, Any] = {"epoch": self.at.epoch + 1}
        if self.fabric.is_global_zero:
            scores = summary(run(self.released(), self.material.dev), self.tree)
            entry |= {
                "loss": {n: total / self.at.step for n, total in self.at.totals.items()},
                "dev_f1": {task: scores[task]["f1"] for task in TASKS},
                "dev_recall": {task: scores[task]["recall"] for task in TASKS},
                "dev_ece": {task: scores[task]["ece"] for task in TASKS},
                "score": scores["gender"]["f1"] + scores["age_group"]["f1"],
            }
        entry = self.fabric.broadcast(entry)
        if entry["score"] > self.at.best["score"]:
            weights = {k: v.clone() for k, v in self.averaged.module.state_dict().items()}
            self.at.best = {
                "score": entry["score"],
                "epoch": entry["epoch"],
                "weights": weights,
            }
        return entry

    def _write_log(self) -> None:
        lines = "".join(json.dumps(entry) + "\n" for entry in self.at.entries)
        (self.settings.out / "log.jsonl").write_text(lines)

    def _show(self, entry: dict[str, Any]) -> None:
        """For TensorBoard."""
        with SummaryWriter(str(self.settings.out / "tensorboard")) as board:
            for group in ("loss", "dev_f1", "dev_recall", "dev_ece"):
                for name, value in entry[group].items():
                    board.add_scalar(f"{group}/{name}", value, entry["epoch"])
            board.add_scalar("learning_rate", self.schedule.get_last_lr()[0], entry["epoch"])

    def _over(self) -> bool:
        patience = self.settings.patience
        stale = self.at.epoch - self.at.best["epoch"]
        return self.at.epoch >= self.settings.epochs or bool(patience and stale >= patience)

    def train(self) -> SpeakerClassifier:
        """All remaining epochs; returns the best of them on dev."""
        with self._progress() as show:
            while not self._over():
                entry = self.train_one(show)
                if self.fabric.is_global_zero:
                    print(json.dumps(entry), flush=True)
        self.averaged.module.load_state_dict(self.at.best["weights"])
        return self.released()
