"""From records to figures: means over seeds, intervals over speakers, differences in pairs.

A draw of the bootstrap draws test speakers once for all seeds of a row, and the same ones for every
row that was tested on the same speakers; the figure of a draw is the mean over the seeds. An
interval thus says how far other speakers would move the mean. How far other seeds would is what
``spread`` says, the standard deviation over them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from intervals import DRAWS, Floats, Interval, measures, percentiles, resampled

from paper_table.plan import Records
from paper_table.recipe import Recipe, differences, flags_of
from paper_table.records import Record
from paper_table.rows import Row

SCORES = ("precision", "recall", "f1", "accuracy")
TESTED = ("gender", "gender_everyone", "age_group", "age_band")


@dataclass(frozen=True)
class Value:
    """A figure as a share of one.

    Attributes:
        value: mean over the seeds; None where nothing could be measured.
        interval: of 95 %, None where draws do not vary.
        spread: standard deviation over the seeds, None of one.
        by_seed: the figure of each.
    """

    value: float | None
    interval: Interval = None
    spread: float | None = None
    by_seed: tuple[float, ...] = ()


@dataclass(frozen=True)
class Line:
    """A row of the table with what was found.

    Attributes:
        row: what it is.
        records: of its seeds that belong together, by seed.
        missing: seeds that have no record.
        notes: what a reader should know of them.
        figures: by task and score; empty without records.
    """

    row: Row
    records: list[Record]
    missing: list[int]
    notes: list[str] = field(default_factory=list)
    figures: dict[str, dict[str, Value]] = field(default_factory=dict)

    @property
    def dev_score(self) -> float | None:
        """Mean of what chose the epochs."""
        found = [record.dev_score for record in self.records]
        return sum(found) / len(found) if found else None


def gathered(
    row: Row, wanted: Sequence[int], records: Records, recipe: Recipe
) -> tuple[list[Record], list[str]]:
    """Records of a row that may be averaged, and what is to be said of them.

    Those of the recipe that is asked for, if there are any; else those that have the flags of the
    first seed. All of them tested on the same speakers.
    """
    every = [record for (name, _), record in sorted(records.items()) if name == row.id]
    if not every:
        return [], []
    differing = {r.seed: differences(flags_of(row, r.seed, recipe), r.flags) for r in every}
    kept = [record for record in every if not differing[record.seed]]
    notes = []
    if not kept:
        kept = [r for r in every if differing[r.seed] == differing[every[0].seed]]
        notes.append("other flags: " + "; ".join(differing[every[0].seed]))
    first = kept[0].speakers
    left_out = [r.seed for r in every if r not in kept or r.speakers != first]
    if left_out:
        notes.append(f"seeds left out, of other flags or other data: {_listed(left_out)}")
    kept = [record for record in kept if record.speakers == first]
    extra = [record.seed for record in kept if record.seed not in wanted]
    if extra:
        notes.append(f"also seeds {_listed(extra)}")
    return kept, notes


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def _stacked(records: Sequence[Record], task: str) -> Floats:
    """[speakers, seeds, classes, classes + 1]."""
    return np.stack([record.tables(task) for record in records], axis=1)


def _drawn(records: Sequence[Record], task: str, draws: int) -> dict[str, Floats]:
    """Means over the seeds, [draws] by score; the same speakers for everybody."""
    found = measures(resampled(_stacked(records, task), draws=draws))
    return {score: getattr(found, score).mean(axis=-1) for score in SCORES}


def _plain(records: Sequence[Record], task: str) -> dict[str, Floats]:
    """[seeds] by score."""
    found = measures(_stacked(records, task).sum(axis=0))
    return {score: getattr(found, score) for score in SCORES}


def figures(records: Sequence[Record], task: str, draws: int = DRAWS) -> dict[str, Value]:
    """Figures of a task by score, of records that were tested on the same speakers."""
    plain, drawn = _plain(records, task), _drawn(records, task, draws)
    made = {}
    for score in SCORES:
        seeds = plain[score]
        if not np.isfinite(seeds).all():
            made[score] = Value(None)
            continue
        made[score] = Value(
            value=float(seeds.mean()),
            interval=percentiles(drawn[score]),
            spread=float(seeds.std(ddof=1)) if len(seeds) > 1 else None,
            by_seed=tuple(seeds.tolist()),
        )
    return made


def difference(
    ours: Sequence[Record], theirs: Sequence[Record], task: str, score: str, draws: int = DRAWS
) -> Value | None:
    """Ours less theirs in pairs of speakers and, as far as both have them, of seeds.

    None where they cannot be paired: other test speakers, or no record.
    """
    if not ours or not theirs or ours[0].speakers != theirs[0].speakers:
        return None
    common = {r.seed for r in ours} & {r.seed for r in theirs}
    if common:
        ours = [record for record in ours if record.seed in common]
        theirs = [record for record in theirs if record.seed in common]
    value = _plain(ours, task)[score].mean() - _plain(theirs, task)[score].mean()
    if not np.isfinite(value):
        return None
    drawn = _drawn(ours, task, draws)[score] - _drawn(theirs, task, draws)[score]
    return Value(float(value), percentiles(drawn))


def line(row: Row, wanted: Sequence[int], records: Records, recipe: Recipe) -> Line:
    """A row with its figures."""
    kept, notes = gathered(row, wanted, records, recipe)
    missing = [seed for seed in wanted if seed not in {record.seed for record in kept}]
    made = {task: figures(kept, task) for task in TESTED} if kept else {}
    return Line(row, kept, missing, notes, made)


def plain(value: Value | None) -> dict[str, Any] | None:
    """For JSON."""
    if value is None:
        return None
    return {
        "value": value.value,
        "interval": list(value.interval) if value.interval else None,
        "spread": value.spread,
        "by_seed": list(value.by_seed),
    }


def mark_other_data(lines: Mapping[str, Line]) -> None:
    """Note at rows that were made from other data than most rows of the same role."""
    for role in {found.row.data for found in lines.values()}:
        there = [f for f in lines.values() if f.row.data == role and f.records]
        kinds = [json.dumps(found.records[0].speakers, sort_keys=True) for found in there]
        usual = max(kinds, key=kinds.count, default="")
        for found, kind in zip(there, kinds, strict=True):
            if kind != usual:
                found.notes.append(f"from other {role} data than most rows")


def base_of(row: Row) -> str | None:
    """Row that the paper's differences of this one are to; None for a base."""
    base = f"{'inhouse' if row.block == 'inhouse' else row.network}-base"
    return base if row.block in ("telephone", "inhouse") and row.id != base else None


def compared(
    lines: Mapping[str, Line], to: Callable[[Row], str | None]
) -> dict[str, dict[str, dict[str, Value | None]]]:
    """Differences to another row, by row, task and score, of the rows that have one.

    Args:
        lines: of the table, by row.
        to: id of the row that one is compared with, or None.
    """
    found: dict[str, dict[str, dict[str, Value | None]]] = {}
    for name, ours in lines.items():
        other = to(ours.row)
        if other is None:
            continue
        found[name] = {
            task: {
                score: difference(ours.records, lines[other].records, task, score)
                for score in ("f1", "recall")
            }
            for task in TESTED
        }
    return found
