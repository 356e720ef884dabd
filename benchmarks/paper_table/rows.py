"""The rows of the paper's Table 1, its published figures, and our ablations of them.

The figures are those of the poster (NeurIPS 2023 workshop on causal representation learning), in
per cent. Its row "+ MKD (cos† mse↓)" prints those of the cosine, and in brackets differences,
which we read as those of the mean squared error to it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Block = Literal["clean", "telephone", "inhouse", "preparation", "ablation"]
Network = Literal["ecapa", "resnet"]
Knowledge = Literal["zeroed", "shuffled", "mean"]
Triple = tuple[float, float, float]
"""Macro precision, recall and F1 in per cent."""

FIRST_SEED = 1
"""Of the rows that others build on: one teacher and one start for all seeds."""


@dataclass(frozen=True)
class Published:
    """What the paper prints: gender and age group (its super class)."""

    gender: Triple
    age_group: Triple

    def of(self, task: str) -> Triple | None:
        """The figures of a task, None for one that the paper does not report."""
        return {"gender": self.gender, "age_group": self.age_group}.get(task)


@dataclass(frozen=True)
class Row:
    """One row: a recipe up to network, seed and folders.

    Attributes:
        id: names its records and runs.
        block: the paper's data set it stands under, or why it is here without one.
        network: the paper's backbone.
        method: as the paper calls it, or what an ablation changes.
        flags: of the training command, beside those of the recipe.
        data: role of the folder that is trained and tested on.
        clean: role of the folder where the teacher hears the clean twins; None without a teacher.
        teacher: row that teaches.
        init: row whose weights training begins with.
        published: figures of the paper, None where it has none.
        reference: of an ablation, the row that it is compared with.
        source: row whose students are tested again after ``spoil`` was done to their dictionary
            K; nothing is trained.
        spoil: what becomes of K.
    """

    id: str
    block: Block
    network: Network
    method: str
    flags: tuple[str, ...]
    data: str = "telephone"
    clean: str | None = None
    teacher: str | None = None
    init: str | None = None
    published: Published | None = None
    reference: str | None = None
    source: str | None = None
    spoil: Knowledge | None = None

    @property
    def pretrains(self) -> bool:
        """Whether it is a teacher's row: clean speech at 16 kHz."""
        return self.data in ("clean", "rest-clean")

    @property
    def roles(self) -> set[str]:
        """Folders that it reads itself."""
        return {self.data} | ({self.clean} if self.clean and not self.source else set())

    @property
    def needs(self) -> tuple[str, ...]:
        """Rows whose checkpoint it needs."""
        needed = (self.source,) if self.source else (self.teacher, self.init)
        return tuple(name for name in needed if name)


_PAPER: dict[str, Published] = {
    "ecapa-clean": Published((99.85, 99.83, 99.84), (96.67, 96.90, 96.78)),
    "resnet-clean": Published((99.86, 99.86, 99.86), (94.13, 94.12, 94.11)),
    "ecapa-base": Published((97.13, 97.14, 97.13), (79.80, 68.07, 70.01)),
    # the line above with the differences in brackets: -0.22 -0.21 -0.22, +0.01 -0.05 -0.68
    "ecapa-mkd-mse": Published((96.81, 96.55, 96.67), (81.36, 66.09, 66.75)),
    "ecapa-mkd-cos": Published((97.03, 96.76, 96.89), (81.35, 66.14, 67.43)),
    "ecapa-ch": Published((97.35, 97.35, 97.35), (83.45, 83.13, 81.82)),
    "resnet-base": Published((95.34, 95.26, 95.26), (73.36, 73.42, 73.00)),
    "resnet-mkd-cos": Published((96.11, 96.07, 96.07), (74.78, 70.46, 73.05)),
    "resnet-ch": Published((97.55, 97.56, 97.55), (82.38, 81.15, 77.66)),
    "resnet-mkd+ch": Published((98.95, 98.96, 98.96), (88.40, 87.69, 87.83)),
    "inhouse-base": Published((96.83, 96.82, 96.81), (62.30, 62.88, 60.01)),
    "inhouse-ch": Published((98.32, 98.29, 98.29), (75.13, 70.68, 70.15)),
    "inhouse-mkd+ch": Published((98.59, 98.59, 98.59), (76.04, 70.65, 70.48)),
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
"""The paper's encoders hear whole utterances."""


def _pretrained(name: str, block: Block, network: Network, data: str, method: str) -> Row:
    return Row(name, block, network, method, (), data, published=_PAPER.get(name))


def _student(network: Network, preset: str) -> Row:
    """A row of the telephone block."""
    name = f"{network}-{preset}"
    taught = preset != "base"
    return Row(
        name,
        "telephone",
        network,
        _METHODS[preset],
        ("--preset", preset, _OFFLINE),
        clean="clean" if taught else None,
        teacher=f"{network}-clean" if taught else None,
        published=_PAPER.get(name),
    )


def _inhouse(preset: str) -> Row:
    """A row of the in-house block: the telephone base of other corpora, fine-tuned."""
    name = f"inhouse-{preset}"
    taught = preset != "base"
    return Row(
        name,
        "inhouse",
        "ecapa",
        "base (F/T)" if preset == "base" else _METHODS[preset],
        ("--preset", preset, _OFFLINE),
        data="inhouse",
        clean="inhouse-clean" if taught else None,
        teacher="rest-clean" if taught else None,
        init="rest-base",
        published=_PAPER[name],
    )


PAPER_ROWS: tuple[Row, ...] = (
    *(_pretrained(f"{n}-clean", "clean", n, "clean", "base") for n in _NETWORKS),
    *(_student(network, preset) for network in _NETWORKS for preset in _METHODS),
    *(_inhouse(preset) for preset in ("base", "ch", "mkd+ch")),
)
"""The table in the paper's order, and the combinations that it leaves out."""

_BASE = replace(_student("ecapa", "base"), id="rest-base", data="rest", published=None)
PREPARATION: tuple[Row, ...] = (
    _pretrained("rest-clean", "preparation", "ecapa", "rest-clean", "teacher of the in-house rows"),
    replace(_BASE, block="preparation", method="where the in-house rows begin"),
)
"""What the in-house rows are made from, without the in-house corpus."""


def _ablation(reference: str, suffix: str, method: str, *flags: str) -> Row:
    """A row of the telephone block with other flags, which override what the preset sets."""
    whole = _student("ecapa", reference.removeprefix("ecapa-"))
    if "--streaming" in flags:
        whole = replace(whole, flags=tuple(flag for flag in whole.flags if flag != _OFFLINE))
    return replace(
        whole,
        id=f"{reference}-{suffix}",
        block="ablation",
        method=method,
        flags=(*whole.flags, *flags),
        published=None,
        reference=reference,
    )


def _gammas(negative: float, positive: float, margin: float) -> Row:
    text = f"{negative:g}-{positive:g}-{margin:g}"
    return _ablation(
        "ecapa-ch",
        f"gammas-{text}",
        f"asymmetric loss, gammas {negative:g} and {positive:g}, margin {margin:g}",
        *("--gamma-negative", f"{negative:g}"),
        *("--gamma-positive", f"{positive:g}"),
        *("--margin", f"{margin:g}"),
    )


def _afterwards(spoil: Knowledge) -> Row:
    row = _ablation("ecapa-ch", f"k-{spoil}-after", f"K {spoil} after training")
    return replace(row, source="ecapa-ch", spoil=spoil)


_SPOILT: tuple[Knowledge, ...] = ("zeroed", "shuffled", "mean")
_CE = ("--age-loss", "cross-entropy")
_KNOWN_NOTHING = ("--knowledge", "none")

ABLATIONS: tuple[Row, ...] = (
    _ablation("ecapa-ch", "cross-entropy", "no asymmetric loss", *_CE),
    _ablation("ecapa-ch", "no-dependency", "no dependency loss", "--dependency", "none"),
    _ablation("ecapa-ch", "smooth", "dependency loss smooth", "--dependency", "smooth"),
    _ablation("ecapa-ch", "literal", "dependency loss as printed", "--dependency", "literal"),
    _ablation("ecapa-ch", "no-invariance", "no invariance", "--invariance-weight", "0"),
    _ablation("ecapa-ch", "separate", "hierarchy separate", "--hierarchy", "separate"),
    replace(
        _ablation("ecapa-ch", "no-k", "no K", *_KNOWN_NOTHING),
        teacher=None,
        clean=None,
    ),
    *(
        _ablation("ecapa-ch", f"k-{spoil}", f"trained with K {spoil}", "--knowledge", spoil)
        for spoil in _SPOILT
    ),
    *(_afterwards(spoil) for spoil in _SPOILT),
    # the authors' order of tuning; its end, (4, 1, 0.05), is the reference itself
    _gammas(0, 0, 0),
    _gammas(2, 2, 0),
    _gammas(2, 1, 0),
    _ablation(
        "ecapa-ch",
        "single-label",
        "asymmetric loss, single-label form",
        *("--age-loss", "asymmetric-single"),
    ),
    replace(
        _ablation(
            "ecapa-ch",
            "marginalised",
            "hierarchy marginalised (cross-entropy)",
            *("--hierarchy", "marginalised", *_CE),
        ),
        # its own loss is cross-entropy, so that is what only the hierarchy tells it from
        reference="ecapa-ch-cross-entropy",
    ),
    _ablation("ecapa-base", "streaming", "streaming encoder", "--streaming"),
    _ablation("ecapa-mkd+ch", "streaming", "streaming encoder", "--streaming"),
    # T 10 and lambda 0.7 are the reference itself
    *(
        _ablation("ecapa-mkd-cos", f"window-{t}", f"mixup T {t}", "--mixup-window", str(t))
        for t in (0, 4, 30)
    ),
    *(
        _ablation("ecapa-mkd-cos", f"lambda-{lam}", f"mixup λ {lam}", "--mixup-lambda", str(lam))
        for lam in (0.5, 0.9)
    ),
)
"""What each part is worth: telephone, ECAPA, each against its reference row."""

ROWS: dict[str, Row] = {row.id: row for row in (*PAPER_ROWS, *PREPARATION, *ABLATIONS)}
