"""Network sizes and schedules of Table 1: the flags that its rows leave open.

The paper publishes neither; all of this is our choice. The default is for two CPU cores.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from train.experiments.table1_rows import FIRST_SEED, TableRow

Folders = Mapping[str, Sequence[str]]
"""Data folders by role."""
RECIPE: dict[str, tuple[Any, Any]] = {
    "backbone": ("ecapa-res2", "resnet"),
    "width": (96, 8),
    "frame-stride": (2, 0),
    "epochs": (10, 6),
    "epoch-clips": (0, 0),
    "batch-size": (64, 64),
    "learning-rate": (2e-3, 2e-3),
    "shortest-crop": (2.0, 2.0),
    "longest-crop": (4.0, 3.0),
    "precision": ("bf16-mixed", "bf16-mixed"),
    "compile": (True, True),
}
"""Default flags of the training commands for ECAPA and ResNet; the paper publishes none."""
FINETUNE = {"epochs": 5, "learning-rate": 5e-4}
"""Default flags of the in-house rows, over those of their network."""


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Add a flag for every field of the recipe, for both networks and for each."""
    group = parser.add_argument_group("recipe", "flags of the training commands, see below")
    for field, defaults in RECIPE.items():
        for prefix in ("", "ecapa-", "resnet-") if field != "backbone" else ("ecapa-", "resnet-"):
            default = defaults[prefix == "resnet-"]
            settings: dict[str, Any] = {"type": type(default), "metavar": "X"}
            if field == "compile":
                settings = {"action": argparse.BooleanOptionalAction}
            text = f"({default})" if prefix else "both networks"
            group.add_argument(f"--{prefix}{field}", default=None, help=text, **settings)
    for field, value in FINETUNE.items():
        flag, text = f"--finetune-{field}", f"of the in-house rows ({value})"
        group.add_argument(flag, type=type(value), default=value, metavar="X", help=text)


def flags_of(row: TableRow, seed: int, options: argparse.Namespace) -> tuple[str, ...]:
    """Return the flags of a run without paths: folders by role, other runs by name.

    All of the recipe is spelled out, also where it is the default, so that records compare.
    """
    words = ["--data", row.data, *(["--clean-data", row.clean] if row.clean else [])]
    for flag, other in (("--teacher", row.teacher), ("--init", row.init)):
        words += [flag, f"{other}-s{FIRST_SEED}"] if other else []
    words += row.flags
    given = vars(options)
    for field, defaults in RECIPE.items():
        key = field.replace("-", "_")
        value = defaults[row.network == "resnet"]
        for found in (given.get(key), given[f"{row.network}_{key}"]):
            value = value if found is None else found
        if row.init and field in FINETUNE:
            value = given[f"finetune_{key}"]
        if field == "compile":
            words.append("--compile" if value else "--no-compile")
        elif field != "epoch-clips" or value:  # 0: the whole train split
            words += [f"--{field}", f"{value:g}" if isinstance(value, float) else str(value)]
    words += ["--seed", str(seed), *(["--spoil-afterwards", row.spoil] if row.spoil else [])]
    return tuple(words)


def command(
    row: TableRow, name: str, flags: Sequence[str], folders: Folders, work: Path
) -> list[str]:
    """Return the training process of a run: roles and runs in its flags become paths.

    Args:
        row: of the run.
        name: of the run and its folder.
        flags: see :func:`flags_of`.
        folders: by role.
        work: folder of the runs.
    """
    module = "train.pretrain" if row.pretrains else "train.distill"
    words = [sys.executable, "-m", module]
    left = iter(flags)
    for word in left:
        if word in ("--data", "--clean-data"):
            words += [part for place in folders[next(left)] for part in (word, place)]
        elif word in ("--teacher", "--init"):
            words += [word, str(work / next(left))]
        else:
            words.append(word)
    return [*words, "--out", str(work / name)]
