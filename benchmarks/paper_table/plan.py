"""What is to be run for Table 1, in which order, and how long it takes."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from paper_table.recipe import Recipe, differences, flags_of, run_name
from paper_table.records import Record
from paper_table.rows import ABLATIONS, FIRST_SEED, PAPER_ROWS, PREPARATION, ROWS, Row

State = Literal["done", "other flags", "missing"]
Records = Mapping[tuple[str, int], Record]

CHECKPOINT = "last.pt"


@dataclass(frozen=True)
class Wanted:
    """One run that the table needs.

    Attributes:
        row, seed: which.
        state: whether there is a record, and of this recipe.
        differing: flags of the record that are others than those wanted.
        again: its record is there, but a run that is missing needs its checkpoint.
    """

    row: Row
    seed: int
    state: State
    differing: list[str] = field(default_factory=list)
    again: bool = False

    @property
    def name(self) -> str:
        """Of its folder and record."""
        return run_name(self.row.id, self.seed)


def seeds_of(row: Row, seeds: Sequence[int], ablation_seeds: Sequence[int]) -> Sequence[int]:
    """Seeds of a row: one for a row that others build on."""
    if row.pretrains or row.block == "preparation":
        return (FIRST_SEED,)
    return ablation_seeds if row.block == "ablation" else seeds


def chosen(
    blocks: Sequence[str] | None, only: Sequence[str] | None, *, ablations: bool
) -> list[Row]:
    """Rows that are asked for, in the table's order.

    Args:
        blocks: clean, telephone, inhouse; None takes all.
        only: ids or patterns of them, of any block; None takes all of the blocks.
        ablations: add those; patterns find them anyway.

    Raises:
        ValueError: a pattern that no row fits.
    """
    every = [*PAPER_ROWS, *PREPARATION, *ABLATIONS]
    if only:
        for pattern in only:
            if not fnmatch.filter(ROWS, pattern):
                raise ValueError(f"--only {pattern}: no such row; there are {', '.join(ROWS)}")
        fitting = [row for row in every if any(fnmatch.fnmatchcase(row.id, p) for p in only)]
        return [row for row in fitting if not blocks or row.block in blocks]
    named = set(blocks or ("clean", "telephone", "inhouse"))
    if "inhouse" in named:
        named.add("preparation")
    rows = [row for row in (*PAPER_ROWS, *PREPARATION) if row.block in named]
    return [*rows, *(ABLATIONS if ablations else ())]


def without_folders(rows: Iterable[Row], folders: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Rows that cannot be run, by id, with the roles nobody gave a folder for."""
    lacking = {}
    for row in rows:
        roles = set(row.roles)
        for name in row.needs:
            roles |= ROWS[name].roles
        missing = sorted(role for role in roles if role not in folders)
        if missing:
            lacking[row.id] = missing
    return lacking


def state_of(
    row: Row, seed: int, recipe: Recipe, records: Records, data: Mapping[str, str]
) -> Wanted:
    """Whether a run is there."""
    record = records.get((row.id, seed))
    if record is None:
        return Wanted(row, seed, "missing")
    differing = differences(flags_of(row, seed, recipe), record.flags)
    found, wanted = record.speakers.get("data"), data.get(row.data)
    if found and wanted and found != wanted:
        differing.append(f"other data in --{row.data}")
    return Wanted(row, seed, "other flags" if differing else "done", differing)


def survey(
    rows: Iterable[Row],
    recipe: Recipe,
    records: Records,
    *,
    seeds: Sequence[int],
    ablation_seeds: Sequence[int],
    data: Mapping[str, str] = MappingProxyType({}),
) -> list[Wanted]:
    """State of every run of these rows, seed by seed so that a first full table comes early.

    Args:
        rows: that are asked for.
        recipe: that is wanted.
        records: that are there.
        seeds: that are wanted of the table's rows.
        ablation_seeds: of the ablations.
        data: identity of the data by role (``paper_table/data.py``); a role that is not there is
            not compared.
    """
    listed = [(row, seeds_of(row, seeds, ablation_seeds)) for row in rows]
    longest = max((len(of_row) for _, of_row in listed), default=0)
    return [
        state_of(row, of_row[turn], recipe, records, data)
        for turn in range(longest)
        for row, of_row in listed
        if turn < len(of_row)
    ]


def todo(
    listed: Sequence[Wanted],
    recipe: Recipe,
    records: Records,
    work: Path,
    *,
    force: bool,
    data: Mapping[str, str] = MappingProxyType({}),
) -> list[Wanted]:
    """Runs to make: those missing, those of other flags if forced, and before them what they need.

    Args:
        listed: of :func:`survey`.
        recipe: that is wanted.
        records: that are there.
        work: where checkpoints lie.
        force: run those of other flags again.
        data: as for :func:`survey`.
    """
    order: dict[str, Wanted] = {}

    def add(wanted: Wanted, *, needed: bool) -> None:
        due = wanted.state == "missing" or (force and wanted.state == "other flags")
        lost = needed and not (work / wanted.name / CHECKPOINT).exists()
        if wanted.name in order or not (due or lost):
            return
        for name in wanted.row.needs:
            seed = wanted.seed if wanted.row.source else FIRST_SEED
            add(state_of(ROWS[name], seed, recipe, records, data), needed=True)
        order[wanted.name] = (
            wanted
            if due
            else Wanted(wanted.row, wanted.seed, wanted.state, wanted.differing, again=True)
        )

    for wanted in listed:
        add(wanted, needed=False)
    return list(order.values())


def expected_seconds(wanted: Wanted, recipe: Recipe, records: Records) -> float | None:
    """Seconds of a run, as earlier ones of its like took; None where there is no like.

    The same row in another seed, else rows of the same network and task of the same recipe.
    """
    if wanted.row.spoil:
        return 0.0
    same, alike = [], []
    for (name, seed), record in records.items():
        row = ROWS.get(name)
        if row is None or row.spoil or record.flags != flags_of(row, seed, recipe):
            continue
        if name == wanted.row.id:
            same.append(record.seconds)
        key = (row.network, row.pretrains, row.init is None, row.data)
        mine = wanted.row
        if key == (mine.network, mine.pretrains, mine.init is None, mine.data):
            alike.append(record.seconds)
    fitting = same or alike
    return sum(fitting) / len(fitting) if fitting else None
