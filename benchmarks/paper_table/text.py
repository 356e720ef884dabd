"""Words and cells of the pages that Table 1 is shown on."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from paper_table.figures import Line, Value
from paper_table.recipe import Recipe, recipe_words
from paper_table.rows import Row

BLOCKS = {
    "clean": "clean, 16 kHz (paper: FCVG)",
    "telephone": "telephone (paper: LTV)",
    "inhouse": "in-house (paper: theirs)",
    "preparation": "not in the paper",
}
NETWORKS = {"ecapa": "ECAPA", "resnet": "ResNet"}
SCORES = ("precision", "recall", "f1")
NOTHING = "–"  # noqa: RUF001 - an en dash, as tables have it
FACTS = (
    "Per cent, macro averages over classes; R is the unweighted average recall. Gender is that of "
    "adults (known age, no child). Tested on whole utterances of the test split.",
    "Ours: mean over seeds, in brackets its 95 % interval by resampling the speakers of the test "
    "split, the same draws for all seeds and rows; below it the paper's.",
    "The corpora of the paper are Korean, not free and not ours, its age groups are not published, "
    "and our telephone is simulated: the figures cannot be compared across, only what each step "
    "is worth. Sizes and schedules are ours too; the paper publishes none.",
    "Labels are perceived binary gender and age band, as the corpora state them.",
    "+ MKD (mse): the paper's brackets, read as differences to the cosine above them. Rows without "
    "a number of the paper are combinations it does not report.",
)
_INHOUSE = [
    *("--inhouse", "CALLS", "--inhouse-clean", "CLEAN"),
    *("--rest", "CALLS", "--rest-clean", "CLEAN"),
]


def shown(value: Value | None, *, signed: bool = False) -> str:
    """A figure in per cent with its interval."""
    if value is None or value.value is None:
        return NOTHING
    sign = "+" if signed else ""
    text = f"{100 * value.value:{sign}.1f}"
    if value.interval is None:
        return text
    low, high = value.interval
    return f"{text} [{100 * low:{sign}.1f}, {100 * high:{sign}.1f}]"


def make_command(row: Row, seeds: Sequence[int], recipe: Recipe) -> str:
    """The command that makes a row."""
    name = "--ablation-seeds" if row.block == "ablation" else "--seeds"
    inhouse = _INHOUSE if row.block in ("inhouse", "preparation") else []
    sizes = recipe_words(recipe, row)
    words = ["run", "--only", row.id, name, *map(str, seeds), *inhouse, *sizes]
    return shlex.join(["python", "benchmarks/table1.py", *words])


def mark(found: Line) -> str:
    """A dagger where a note belongs to the row."""
    return " †" if found.notes else ""


def seeds_shown(found: Line) -> str:
    """How many seeds there are, of how many wanted."""
    have, lack = len(found.records), len(found.missing)
    return f"{have} of {have + lack}" if lack else str(have)
