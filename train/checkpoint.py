"""Checkpoints of a run: what is in them, and the network inside."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from model.classifier import SpeakerClassifier, StudentConfig

FILE = "last.pt"
"""Within the folder of a run: its newest state, and the weights of its best epoch."""


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint; replaced in one step, so a kill cannot spoil it."""
    partial = path.with_suffix(".tmp")
    torch.save(state, partial)
    partial.replace(path)


def load_student(path: Path) -> SpeakerClassifier:
    """The network of a run at its best epoch, for evaluation.

    Args:
        path: folder of a run of train.distill or train.pretrain, or its checkpoint.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no such checkpoint, or its weights belong to another network.
    """
    if path.is_dir():
        path /= FILE
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        weights = state["best"]["weights"]
        student = SpeakerClassifier(StudentConfig.from_dict(state["config"]))
    except (KeyError, TypeError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path.name}: no checkpoint with the best weights: {error}") from error
    try:
        student.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{path.name}: weights of another network: {error}") from error
    return student.eval()
