"""Offline evaluation of a student: running posteriors over a split and what they are worth."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from model.classifier import BLOCK, SpeakerClassifier
from model.labels import TASKS, LabelTree
from streamer.audio.codec import SAMPLE_RATE
from train.data.batching import UNKNOWN, Batch
from train.evaluation.metrics import expected_calibration_error, macro_scores


@dataclass(frozen=True)
class Running:
    """Running log-posteriors of a split.

    Attributes:
        logp: by task, one float32 [blocks, classes] per utterance with speech.
        targets: by task, int64 [utterances], -1 where unknown.
    """

    logp: dict[str, list[NDArray[np.float32]]]
    targets: dict[str, NDArray[np.int64]]

    def at(self, task: str, seconds: float) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Log-posteriors [m, classes] and targets [m] after ``seconds`` of speech (or at the end).

        Only utterances with a known label; those with less speech count with what they have.
        """
        block = max(0, int(seconds * SAMPLE_RATE / BLOCK) - 1)
        known = self.targets[task] != UNKNOWN
        rows = [p[min(block, len(p) - 1)] for p, k in zip(self.logp[task], known, strict=True) if k]
        return np.stack(rows), self.targets[task][known]


@torch.no_grad()
def run(student: SpeakerClassifier, batches: Iterable[Batch]) -> Running:
    """Running log-posteriors of every utterance that has speech."""
    student.eval()
    device = next(student.parameters()).device
    logp: dict[str, list[NDArray[np.float32]]] = {task: [] for task in TASKS}
    targets: dict[str, list[int]] = {task: [] for task in TASKS}
    for batch in batches:
        output = student(batch.samples.to(device), batch.lengths.to(device))
        blocks = output.block_mask.sum(dim=1).tolist()
        for task in TASKS:
            rows = output.logits[task].log_softmax(dim=2).cpu().numpy()
            logp[task] += [row[:count] for row, count in zip(rows, blocks, strict=True) if count]
            targets[task] += [
                int(t) for t, count in zip(batch.targets[task], blocks, strict=True) if count
            ]
    return Running(logp, {task: np.array(t, np.int64) for task, t in targets.items()})


def summary(running: Running, tree: LabelTree, seconds: float = 1e9) -> dict[str, dict[str, Any]]:
    """Macro scores and calibration error by task, after ``seconds`` of speech."""
    result = {}
    for task in TASKS:
        logp, truth = running.at(task, seconds)
        scores = macro_scores(truth, logp.argmax(axis=1), tree.classes(task))
        confidence = np.exp(logp.max(axis=1))
        scores["ece"] = expected_calibration_error(confidence, logp.argmax(axis=1) == truth)
        result[task] = scores
    return result
