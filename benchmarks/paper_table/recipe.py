"""How large and how long: what a row of Table 1 leaves open, and the command that it comes to.

The paper publishes neither network sizes nor schedules; all of this is our choice. The default is
for two CPU cores.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from paper_table.rows import FIRST_SEED, Row
from train.trainer.settings import by_flag


@dataclass(frozen=True)
class NetworkRecipe:
    """Size and schedule of one backbone; the fields are flags of the training commands.

    Attributes:
        backbone: of train.distill and train.pretrain.
        width: channels; 0 takes the backbone's.
        frame_stride: fbank frames per encoder frame; 0 takes the backbone's.
        epochs: of every run but the fine-tuning.
        epoch_clips: utterances per epoch; 0 takes as many as the train split has.
        batch_size: utterances per step.
        learning_rate: peak.
        shortest_crop, longest_crop: seconds of speech.
        precision: of torch.
        compile: torch.compile the network.
    """

    backbone: Literal["ecapa", "ecapa-res2", "resnet", "resnet10"]
    width: int
    frame_stride: int = 0
    epochs: int = 10
    epoch_clips: int = 0
    batch_size: int = 64
    learning_rate: float = 2e-3
    shortest_crop: float = 2.0
    longest_crop: float = 4.0
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "bf16-mixed"
    compile: bool = True

    def words(self) -> list[str]:
        """All of it as flags, also where it is the default, so that records compare."""
        words: list[str] = []
        for part in fields(self):
            value = getattr(self, part.name)
            name = part.name.replace("_", "-")
            if part.name == "compile":
                words.append("--compile" if value else "--no-compile")
            elif part.name != "epoch_clips" or value:
                words += [f"--{name}", f"{value:g}" if isinstance(value, float) else str(value)]
        return words


@dataclass(frozen=True)
class Recipe:
    """Both backbones and the fine-tuning of the in-house rows.

    Attributes:
        ecapa: the paper's Res2 blocks, narrow and at 20 ms a frame.
        resnet: ResNet34's shape, an eighth as wide as usual: ten times dearer than the ECAPA.
        finetune_epochs, finetune_learning_rate: of the in-house rows.
    """

    ecapa: NetworkRecipe = field(
        default_factory=lambda: NetworkRecipe("ecapa-res2", 96, frame_stride=2)
    )
    resnet: NetworkRecipe = field(
        default_factory=lambda: NetworkRecipe("resnet", 8, epochs=6, longest_crop=3.0)
    )
    finetune_epochs: int = 5
    finetune_learning_rate: float = 5e-4

    def of(self, row: Row) -> NetworkRecipe:
        """What the training of a row takes."""
        network: NetworkRecipe = getattr(self, row.network)
        if row.init is None:
            return network
        return replace(
            network, epochs=self.finetune_epochs, learning_rate=self.finetune_learning_rate
        )


_CHOICES = {
    "backbone": ("ecapa", "ecapa-res2", "resnet", "resnet10"),
    "precision": ("32-true", "bf16-mixed", "16-mixed"),
}
_TYPES = {"learning_rate": float, "shortest_crop": float, "longest_crop": float}
_WHAT = {
    "backbone": "shape of the network",
    "width": "channels",
    "frame_stride": "fbank frames per encoder frame",
    "epochs": "epochs, but of the fine-tuning",
    "epoch_clips": "utterances per epoch, 0: the whole train split",
    "batch_size": "utterances per step",
    "learning_rate": "peak learning rate",
    "shortest_crop": "seconds of speech, at least",
    "longest_crop": "seconds of speech, at most",
    "precision": "arithmetic",
    "compile": "torch.compile",
}


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """A flag for every field, for one backbone and for both."""
    default = Recipe()
    group = parser.add_argument_group(
        "recipe",
        "--FIELD is for both backbones, --ecapa-FIELD and --resnet-FIELD for one of them. "
        "The same flags must stand in every command of one table: put them into a file, one "
        "word a line, and say @FILE.",
    )
    for part in fields(NetworkRecipe):
        for network in ("", "ecapa-", "resnet-"):
            if part.name == "backbone" and not network:
                continue
            flag = f"--{network}{part.name.replace('_', '-')}"
            shown = (
                f"{getattr(getattr(default, network[:-1]), part.name)}"
                if network
                else f"{_WHAT[part.name]}"
            )
            if part.name == "backbone":
                shown = f"{_WHAT['backbone']} ({shown})"
            settings: dict[str, Any] = {"help": shown, "default": None}
            if part.name == "compile":
                settings["action"] = argparse.BooleanOptionalAction
            else:
                settings["type"] = _TYPES.get(part.name, str if part.name in _CHOICES else int)
                settings["choices"] = _CHOICES.get(part.name)
                settings["metavar"] = "X"
            group.add_argument(flag, **settings)
    group.add_argument(
        "--finetune-epochs",
        type=int,
        default=default.finetune_epochs,
        metavar="X",
        help="of the in-house rows (%(default)s)",
    )
    group.add_argument(
        "--finetune-learning-rate",
        type=float,
        default=default.finetune_learning_rate,
        metavar="X",
        help="of the in-house rows (%(default)s)",
    )


def recipe_of(options: argparse.Namespace) -> Recipe:
    """The recipe that the flags describe."""
    made = Recipe(
        finetune_epochs=options.finetune_epochs,
        finetune_learning_rate=options.finetune_learning_rate,
    )
    for network in ("ecapa", "resnet"):
        changed: dict[str, Any] = {}
        for part in fields(NetworkRecipe):
            for prefix in ("", f"{network}_"):
                value = getattr(options, prefix + part.name, None)
                if value is not None:
                    changed[part.name] = value
        made = replace(made, **{network: replace(getattr(made, network), **changed)})
    return made


def recipe_words(recipe: Recipe, row: Row) -> list[str]:
    """Flags of this program that make a row's part of the recipe from the default one."""
    default = Recipe()
    words: list[str] = []
    ours, usual = getattr(recipe, row.network), getattr(default, row.network)
    for part in fields(NetworkRecipe):
        value, name = getattr(ours, part.name), part.name.replace("_", "-")
        if value == getattr(usual, part.name):
            continue
        if part.name == "compile":
            words.append(f"--{'' if value else 'no-'}{row.network}-compile")
        else:
            words += [f"--{row.network}-{name}", str(value)]
    for name in ("finetune_epochs", "finetune_learning_rate") if row.init else ():
        if getattr(recipe, name) != getattr(default, name):
            words += [f"--{name.replace('_', '-')}", str(getattr(recipe, name))]
    return words


_PLACES = ("--data", "--clean-data", "--teacher", "--init")


def run_name(row: str, seed: int) -> str:
    """Of a run's folder and of its record."""
    return f"{row}-s{seed}"


def flags_of(row: Row, seed: int, recipe: Recipe) -> list[str]:
    """Exact flags of a run without a path: folders by role, other runs by name."""
    words = ["--data", row.data]
    if row.clean:
        words += ["--clean-data", row.clean]
    for flag, other in (("--teacher", row.teacher), ("--init", row.init)):
        if other:
            words += [flag, run_name(other, FIRST_SEED)]
    words += [*row.flags, *recipe.of(row).words(), "--seed", str(seed)]
    if row.spoil:
        words += ["--spoil-afterwards", row.spoil]
    return words


def command(
    row: Row,
    seed: int,
    recipe: Recipe,
    folders: Mapping[str, list[str]],
    work: Path,
    machine: list[str],
) -> list[str]:
    """The process that trains a row.

    Args:
        row: that is trained.
        seed: of the run.
        recipe: size and schedule.
        folders: by role.
        work: where runs lie.
        machine: flags that change no figure: threads, workers, accelerator.
    """
    module = "train.pretrain" if row.pretrains else "train.distill"
    words = [sys.executable, "-m", module]
    given = iter(flags_of(row, seed, recipe))
    for word in given:
        if word not in _PLACES:
            words.append(word)
            continue
        value = next(given)
        places = folders[value] if word.endswith("data") else [str(work / value)]
        for place in places:
            words += [word, place]
    return [*words, *machine, "--out", str(work / run_name(row.id, seed))]


def differences(wanted: list[str], found: list[str]) -> list[str]:
    """Flags that are not the same, as ``--width 16, wanted 96``."""
    ours, theirs = by_flag(wanted), by_flag(found)
    return [
        f"{name} {theirs.get(name, 'absent')}, wanted {ours.get(name, 'absent')}"
        for name in sorted({*ours, *theirs})
        if ours.get(name) != theirs.get(name)
    ]
