"""The rows of the paper's Table 1, its figures, our ablations, and the training flags of all.

The figures are those of the poster (NeurIPS 2023 workshop on causal representation learning), in
per cent. Its row "+ MKD (cos† mse↓)" prints those of the cosine, and in brackets differences,
which are read here as those of the mean squared error to it. The paper publishes neither sizes nor
schedules: the recipe is our choice, by default for two CPU cores.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

Block = Literal["clean", "telephone", "inhouse", "preparation", "ablation"]
Network = Literal["ecapa", "resnet"]
Knowledge = Literal["zeroed", "shuffled", "mean"]

Folders = Mapping[str, Sequence[str]]
"""Data folders by role."""
_SPEED = {"precision": "bf16-mixed", "compile": "yes"}
RECIPE: dict[str, dict[str, str]] = {
    "ecapa": {
        "backbone": "ecapa-res2",
        "width": "96",
        "frame-stride": "2",
        "epochs": "10",
        "batch-size": "64",
        "learning-rate": "0.002",
        "shortest-crop": "2",
        "longest-crop": "4",
        **_SPEED,
    },
    "resnet": {
        "backbone": "resnet",
        "width": "8",
        "frame-stride": "0",
        "epochs": "6",
        "batch-size": "64",
        "learning-rate": "0.002",
        "shortest-crop": "2",
        "longest-crop": "3",
        **_SPEED,
    },
    "finetune": {"epochs": "5", "learning-rate": "0.0005"},
}
"""Flags of the training commands by network, and of the in-house rows over those."""
RECIPE_KEYS = {*RECIPE["ecapa"], "epoch-clips"}

FIRST_SEED = 1
"""Seed of the rows that others build on: one teacher and one initial model for all seeds."""


@dataclass(frozen=True)
class TableRow:
    """One row: a training command up to network size, seed and folders.

    Attributes:
        block: the paper's data set, or why the row exists without one.
        method: the paper's name, or what an ablation changes.
        flags: of the training command, beside those of the recipe.
        data: role of the folder for training and test; ``clean``: of the teacher's clean twins.
        teacher: row that teaches; ``init``: row whose weights training starts from.
        paper: macro precision, recall and F1 in per cent of gender, then of age group.
        reference: of an ablation, the row that it is compared with.
        source: row whose students are tested again after ``spoil`` of K; trains nothing.
    """

    id: str
    block: Block
    network: Network
    method: str
    flags: tuple[str, ...] = ()
    data: str = "telephone"
    clean: str | None = None
    teacher: str | None = None
    init: str | None = None
    paper: tuple[float, ...] | None = None
    reference: str | None = None
    source: str | None = None
    spoil: Knowledge | None = None

    @property
    def pretrains(self) -> bool:
        """Whether the row is a teacher: clean speech at 16 kHz."""
        return self.data in ("clean", "rest-clean")

    @property
    def needs(self) -> tuple[str, ...]:
        """Rows whose checkpoint it needs."""
        needed = (self.source,) if self.source else (self.teacher, self.init)
        return tuple(name for name in needed if name)

    @property
    def base(self) -> str | None:
        """Row that it is compared with: an ablation's reference, else the base of its block."""
        if self.block not in ("telephone", "inhouse"):
            return self.reference
        base = "inhouse-base" if self.block == "inhouse" else f"{self.network}-base"
        return None if self.id == base else base

    def seeds(self, seeds: Sequence[int], ablation_seeds: Sequence[int]) -> Sequence[int]:
        """Seeds of the row: one for a row that others build on."""
        if self.pretrains or self.block == "preparation":
            return (FIRST_SEED,)
        return ablation_seeds if self.block == "ablation" else seeds


_PAPER = {
    "ecapa-clean": (99.85, 99.83, 99.84, 96.67, 96.90, 96.78),
    "resnet-clean": (99.86, 99.86, 99.86, 94.13, 94.12, 94.11),
    "ecapa-base": (97.13, 97.14, 97.13, 79.80, 68.07, 70.01),
    # the line below plus the differences in brackets: -0.22 -0.21 -0.22, +0.01 -0.05 -0.68
    "ecapa-mkd-mse": (96.81, 96.55, 96.67, 81.36, 66.09, 66.75),
    "ecapa-mkd-cos": (97.03, 96.76, 96.89, 81.35, 66.14, 67.43),
    "ecapa-ch": (97.35, 97.35, 97.35, 83.45, 83.13, 81.82),
    "resnet-base": (95.34, 95.26, 95.26, 73.36, 73.42, 73.00),
    "resnet-mkd-cos": (96.11, 96.07, 96.07, 74.78, 70.46, 73.05),
    "resnet-ch": (97.55, 97.56, 97.55, 82.38, 81.15, 77.66),
    "resnet-mkd+ch": (98.95, 98.96, 98.96, 88.40, 87.69, 87.83),
    "inhouse-base": (96.83, 96.82, 96.81, 62.30, 62.88, 60.01),
    "inhouse-ch": (98.32, 98.29, 98.29, 75.13, 70.68, 70.15),
    "inhouse-mkd+ch": (98.59, 98.59, 98.59, 76.04, 70.65, 70.48),
}
_METHODS = {
    "base": "base",
    "mkd-mse": "+ MKD (mse)",
    "mkd-cos": "+ MKD (cos)",
    "ch": "+ CH",
    "mkd+ch": "+ MKD + CH",
}
_NETWORKS: tuple[Network, ...] = ("ecapa", "resnet")
_OFFLINE = "--no-streaming"
"""The paper's encoders see whole utterances."""


def _row(block: Block, network: Network, preset: str) -> TableRow:
    """Make a row of the telephone block, or of the in-house block: fine-tuned from the former."""
    name, taught = f"{network}-{preset}", preset != "base"
    flags, method = ("--preset", preset, _OFFLINE), _METHODS[preset]
    if block == "telephone":
        clean, teacher = ("clean", f"{network}-clean") if taught else (None, None)
        row = TableRow(name, block, network, method, flags, block, clean, teacher)
        return replace(row, paper=_PAPER.get(name))
    clean, teacher = ("inhouse-clean", "rest-clean") if taught else (None, None)
    method = method if taught else "base (F/T)"
    row = TableRow(f"inhouse-{preset}", block, network, method, flags, block, clean, teacher)
    return replace(row, init="rest-base", paper=_PAPER[row.id])


PAPER_ROWS: tuple[TableRow, ...] = (
    *(
        TableRow(f"{n}-clean", "clean", n, "base", data="clean", paper=_PAPER[f"{n}-clean"])
        for n in _NETWORKS
    ),
    *(_row("telephone", network, preset) for network in _NETWORKS for preset in _METHODS),
    *(_row("inhouse", "ecapa", preset) for preset in ("base", "ch", "mkd+ch")),
)
"""The table in the paper's order, and the combinations that it leaves out."""

PREPARATION: tuple[TableRow, ...] = (
    TableRow(
        "rest-clean", "preparation", "ecapa", "teacher of the in-house rows", data="rest-clean"
    ),
    replace(
        _row("telephone", "ecapa", "base"),
        id="rest-base",
        block="preparation",
        method="initial model of the in-house rows",
        data="rest",
        paper=None,
    ),
)
"""What the in-house rows are made from, without the in-house corpus."""


def _ablation(preset: str, suffix: str, method: str, *flags: str) -> TableRow:
    """Make a telephone row of ECAPA with other flags, which override what the preset sets."""
    row = _row("telephone", "ecapa", preset)
    kept = (f for f in row.flags if f != _OFFLINE or "--streaming" not in flags)
    made = replace(row, id=f"{row.id}-{suffix}", block="ablation", method=method, paper=None)
    return replace(made, flags=(*kept, *flags), reference=row.id)


def _gammas(negative: float, positive: float, margin: float) -> TableRow:
    text = f"{negative:g}-{positive:g}-{margin:g}"
    method = f"asymmetric loss, gammas {negative:g} and {positive:g}, margin {margin:g}"
    values = {"gamma-negative": negative, "gamma-positive": positive, "margin": margin}
    flags = [word for name, value in values.items() for word in (f"--{name}", f"{value:g}")]
    return _ablation("ch", f"gammas-{text}", method, *flags)


def _afterwards(spoil: Knowledge) -> TableRow:
    row = _ablation("ch", f"k-{spoil}-after", f"K {spoil} after training")
    return replace(row, source="ecapa-ch", spoil=spoil)


_SPOILT: tuple[Knowledge, ...] = ("zeroed", "shuffled", "mean")
_CROSS_ENTROPY = ("--age-loss", "cross-entropy")

ABLATIONS: tuple[TableRow, ...] = (
    _ablation("ch", "cross-entropy", "no asymmetric loss", *_CROSS_ENTROPY),
    _ablation("ch", "no-dependency", "no dependency loss", "--dependency", "none"),
    _ablation("ch", "smooth", "dependency loss smooth", "--dependency", "smooth"),
    _ablation("ch", "literal", "dependency loss as printed", "--dependency", "literal"),
    _ablation("ch", "no-invariance", "no invariance", "--invariance-weight", "0"),
    _ablation("ch", "separate", "hierarchy separate", "--hierarchy", "separate"),
    replace(_ablation("ch", "no-k", "no K", "--knowledge", "none"), teacher=None, clean=None),
    *(_ablation("ch", f"k-{s}", f"trained with K {s}", "--knowledge", s) for s in _SPOILT),
    *(_afterwards(spoil) for spoil in _SPOILT),
    # the authors' order of tuning; its end, (4, 1, 0.05), is the reference itself
    _gammas(0, 0, 0),
    _gammas(2, 2, 0),
    _gammas(2, 1, 0),
    _ablation(
        *("ch", "single-label", "asymmetric loss, single-label form"),
        *("--age-loss", "asymmetric-single"),
    ),
    replace(
        _ablation(
            *("ch", "marginalised", "hierarchy marginalised (cross-entropy)"),
            *("--hierarchy", "marginalised", *_CROSS_ENTROPY),
        ),
        # its own loss is cross-entropy, so only the hierarchy differs from this reference
        reference="ecapa-ch-cross-entropy",
    ),
    _ablation("base", "streaming", "streaming encoder", "--streaming"),
    _ablation("mkd+ch", "streaming", "streaming encoder", "--streaming"),
    # T 10 and lambda 0.7 are the reference itself
    *(
        _ablation("mkd-cos", f"window-{t}", f"mixup T {t}", "--mixup-window", str(t))
        for t in (0, 4, 30)
    ),
    *(
        _ablation("mkd-cos", f"lambda-{lam}", f"mixup λ {lam}", "--mixup-lambda", str(lam))
        for lam in (0.5, 0.9)
    ),
)
"""What each part is worth: telephone, ECAPA, each against its reference row."""

ROWS: dict[str, TableRow] = {row.id: row for row in (*PAPER_ROWS, *PREPARATION, *ABLATIONS)}


def setting(text: str) -> tuple[str, str]:
    """Parse a KEY=VALUE of the recipe."""
    key, equals, value = text.partition("=")
    if not equals or key not in RECIPE_KEYS:
        known = ", ".join(sorted(RECIPE_KEYS))
        raise argparse.ArgumentTypeError(f"{text!r} is no KEY=VALUE with a KEY of {known}")
    return key, value


def flags_of(row: TableRow, seed: int, options: argparse.Namespace) -> tuple[str, ...]:
    """Return the flags of a run without paths: folders by role, other runs by name.

    All of the recipe is spelled out, also where it is the default, so that records compare.
    """
    words = ["--data", row.data, *(["--clean-data", row.clean] if row.clean else [])]
    for flag, other in (("--teacher", row.teacher), ("--init", row.init)):
        words += [flag, f"{other}-s{FIRST_SEED}"] if other else []
    words += row.flags
    recipe: dict[str, str] = {}
    for part in (row.network, "finetune") if row.init else (row.network,):
        recipe |= RECIPE[part] | dict(getattr(options, part))
    for key, value in recipe.items():
        switch = ["--compile" if value == "yes" else "--no-compile"]
        words += switch if key == "compile" else [f"--{key}", value]
    words += ["--seed", str(seed), *(["--spoil-afterwards", row.spoil] if row.spoil else [])]
    return tuple(words)


def command(
    row: TableRow, name: str, flags: Sequence[str], folders: Folders, work: Path
) -> list[str]:
    """Return the training process of a run: roles and runs in its flags become paths."""
    words = [sys.executable, "-m", "train.pretrain" if row.pretrains else "train.distill"]
    left = iter(flags)
    for word in left:
        if word in ("--data", "--clean-data"):
            words += [part for place in folders[next(left)] for part in (word, place)]
        elif word in ("--teacher", "--init"):
            words += [word, str(work / next(left))]
        else:
            words.append(word)
    return [*words, "--out", str(work / name)]
