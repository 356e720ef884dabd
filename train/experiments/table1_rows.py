"""The rows of the paper's Table 1, its published figures, and our ablations of them.

The figures are those of the poster (NeurIPS 2023 workshop on causal representation learning), in
per cent. Its row "+ MKD (cos† mse↓)" prints those of the cosine, and in brackets differences,
which are read here as those of the mean squared error to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

Block = Literal["clean", "telephone", "inhouse", "preparation", "ablation"]
Network = Literal["ecapa", "resnet"]
Knowledge = Literal["zeroed", "shuffled", "mean"]

FIRST_SEED = 1
"""Seed of the rows that others build on: one teacher and one initial model for all seeds."""


@dataclass(frozen=True)
class TableRow:
    """One row: a training command up to network size, seed and folders.

    Attributes:
        id: names its records and runs.
        block: the paper's data set, or why the row exists without one.
        network: the paper's backbone.
        method: the paper's name, or what an ablation changes.
        flags: of the training command, beside those of the recipe.
        data: role of the folder for training and test.
        clean: role of the folder with the clean twins for the teacher; None without a teacher.
        teacher: row that teaches.
        init: row whose weights training starts from.
        paper: macro precision, recall and F1 in per cent of gender, then of age group; None if
            the paper has no such row.
        reference: of an ablation, the row that it is compared with.
        source: row whose students are tested again with another dictionary K; trains nothing.
        spoil: what is done to K.
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


def _student(network: Network, preset: str) -> TableRow:
    """Make a row of the telephone block."""
    name, taught = f"{network}-{preset}", preset != "base"
    return TableRow(
        name,
        "telephone",
        network,
        _METHODS[preset],
        ("--preset", preset, _OFFLINE),
        clean="clean" if taught else None,
        teacher=f"{network}-clean" if taught else None,
        paper=_PAPER.get(name),
    )


def _inhouse(preset: str) -> TableRow:
    """Make a row of the in-house block: the telephone base of other corpora, fine-tuned."""
    name, taught = f"inhouse-{preset}", preset != "base"
    return TableRow(
        name,
        "inhouse",
        "ecapa",
        _METHODS[preset] if taught else "base (F/T)",
        ("--preset", preset, _OFFLINE),
        data="inhouse",
        clean="inhouse-clean" if taught else None,
        teacher="rest-clean" if taught else None,
        init="rest-base",
        paper=_PAPER[name],
    )


PAPER_ROWS: tuple[TableRow, ...] = (
    *(
        TableRow(f"{n}-clean", "clean", n, "base", data="clean", paper=_PAPER[f"{n}-clean"])
        for n in _NETWORKS
    ),
    *(_student(network, preset) for network in _NETWORKS for preset in _METHODS),
    *(_inhouse(preset) for preset in ("base", "ch", "mkd+ch")),
)
"""The table in the paper's order, and the combinations that it leaves out."""

PREPARATION: tuple[TableRow, ...] = (
    TableRow(
        "rest-clean", "preparation", "ecapa", "teacher of the in-house rows", data="rest-clean"
    ),
    replace(
        _student("ecapa", "base"),
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
    row = _student("ecapa", preset)
    kept = tuple(f for f in row.flags if f != _OFFLINE or "--streaming" not in flags)
    name = f"ecapa-{preset}"
    return replace(
        row,
        id=f"{name}-{suffix}",
        block="ablation",
        method=method,
        flags=(*kept, *flags),
        paper=None,
        reference=name,
    )


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
        "ch",
        "single-label",
        "asymmetric loss, single-label form",
        *("--age-loss", "asymmetric-single"),
    ),
    replace(
        _ablation(
            "ch",
            "marginalised",
            "hierarchy marginalised (cross-entropy)",
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
