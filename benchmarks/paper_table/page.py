"""Table 1 and what stands beside it: for a page, a terminal, and JSON."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from intervals import DRAWS, LEVEL, SEED
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable
from scoring.tables import Table

from paper_table.figures import Line, Value, base_of, compared, line, mark_other_data, plain
from paper_table.plan import Records, seeds_of
from paper_table.recipe import Recipe
from paper_table.rows import ABLATIONS, PAPER_ROWS, PREPARATION, Row
from paper_table.text import (
    BLOCKS,
    FACTS,
    NETWORKS,
    NOTHING,
    SCORES,
    make_command,
    mark,
    seeds_shown,
    shown,
)

Differences = dict[str, dict[str, dict[str, Value | None]]]


@dataclass(frozen=True)
class Page:
    """Everything that is to be shown.

    Attributes:
        lines: every row by id, in the table's order.
        steps: what each row of the paper gains over the base of its block.
        ablations: what each ablation loses against its reference.
        recipe: that was asked for.
    """

    lines: dict[str, Line]
    steps: Differences
    ablations: Differences
    recipe: Recipe

    @staticmethod
    def of(
        records: Records, recipe: Recipe, *, seeds: Sequence[int], ablation_seeds: Sequence[int]
    ) -> Page:
        """The page that the records make."""
        every = (*PAPER_ROWS, *PREPARATION, *ABLATIONS)
        lines = {
            row.id: line(row, seeds_of(row, seeds, ablation_seeds), records, recipe)
            for row in every
        }
        mark_other_data(lines)
        ablated = compared(lines, lambda row: row.reference)
        return Page(lines, compared(lines, base_of), ablated, recipe)

    def _of(self, block: Callable[[Row], bool]) -> list[Line]:
        return [found for found in self.lines.values() if block(found.row)]

    def tables(self) -> list[Table]:
        """All tables, the paper's first."""
        return [self.main(), self.gains(), self.beside(), self.ablation()]

    def main(self) -> Table:
        """Table 1."""
        rows = []
        for found in self._of(lambda row: row.block in ("clean", "telephone", "inhouse")):
            row = found.row
            cells = [NETWORKS[row.network], BLOCKS[row.block], row.method + mark(found)]
            for task in ("gender", "age_group"):
                paper = row.published.of(task) if row.published else None
                for place, score in enumerate(SCORES):
                    ours = shown(found.figures[task][score]) if found.records else "missing"
                    cells.append(f"{ours}\n{f'paper {paper[place]:.2f}' if paper else NOTHING}")
            rows.append((*cells, seeds_shown(found)))
        header = ("", "data", "method", "gender P", "R", "F1", "age group P", "R", "F1", "seeds")
        return Table("Table 1", header, rows, "\n".join(FACTS))

    def gains(self) -> Table:
        """What each step of the paper is worth, ours beside theirs."""
        rows = []
        for name, tasks in self.steps.items():
            row = self.lines[name].row
            base = self.lines[base_of(row) or name].row
            cells = [name]
            for task in ("gender", "age_group"):
                paper = NOTHING
                if row.published and base.published:
                    pair = [published.of(task) for published in (row.published, base.published)]
                    paper = f"{pair[0][2] - pair[1][2]:+.2f}" if pair[0] and pair[1] else NOTHING
                cells += [shown(tasks[task]["f1"], signed=True), paper]
            rows.append(tuple(cells))
        header = ("row", "gender F1", "paper", "age group F1", "paper")
        note = "Points of F1 more than the base, in pairs of speakers and of seeds both have."
        return Table("What each step is worth", header, rows, note)

    def beside(self) -> Table:
        """What the paper does not report."""
        rows = []
        for found in self._of(lambda row: row.block != "ablation"):
            each = found.figures
            cells = [
                shown(each[task][score]) if each else "missing"
                for task, score in (
                    ("age_band", "f1"),
                    ("age_band", "recall"),
                    ("age_group", "accuracy"),
                    ("gender", "accuracy"),
                    ("gender_everyone", "f1"),
                )
            ]
            spread = each["age_group"]["f1"].spread if each else None
            dev, records = found.dev_score, found.records
            cells += [
                NOTHING if spread is None else f"{100 * spread:.1f}",
                NOTHING if dev is None else f"{dev:.3f}",
                f"{records[0].parameters / 1e6:.2f}" if records else NOTHING,
                f"{sum(r.seconds for r in records) / len(records):.0f}" if records else NOTHING,
            ]
            rows.append((found.row.id, *cells))
        header = (
            *("row", "age band F1", "R", "age group accuracy", "gender accuracy"),
            *("gender F1, children too", "spread", "dev score", "M parameters", "s per run"),
        )
        note = (
            "Spread: standard deviation of the age group's F1 over the seeds, in points. Dev "
            "score: F1 of gender and of age group added, by which the epoch was chosen."
        )
        return Table("Beside it", header, rows, note)

    def ablation(self) -> Table:
        """Each ablation below its reference."""
        rows: list[tuple[str, ...]] = []
        reference = ""
        for name, tasks in self.ablations.items():
            row = self.lines[name].row
            if row.reference and row.reference != reference:
                reference = row.reference
                rows.append(self._ablated(self.lines[reference], f"against {reference}", None))
            rows.append(self._ablated(self.lines[name], row.method, tasks))
        header = ("", "gender F1", "more", "age group F1", "more", "age band F1", "more", "seeds")
        note = (
            "Telephone, ECAPA, one change each; more: points more than the reference above, in "
            "pairs of speakers and of seeds both have. K (zeroed, shuffled, mean) after training: "
            "the trained students of the reference with another dictionary, so nothing adapted."
        )
        return Table("Ablations", header, rows, note)

    def _ablated(
        self, found: Line, name: str, tasks: dict[str, dict[str, Value | None]] | None
    ) -> tuple[str, ...]:
        cells = [name + mark(found)]
        for task in ("gender", "age_group", "age_band"):
            cells.append(shown(found.figures[task]["f1"]) if found.records else "missing")
            cells.append(shown(tasks[task]["f1"], signed=True) if tasks else "")
        return (*cells, seeds_shown(found))

    def notes(self) -> list[str]:
        """What is odd about single rows."""
        return [f"{name}{mark(f)}: {note}" for name, f in self.lines.items() for note in f.notes]

    def sizes(self) -> list[str]:
        """Size and schedule of both backbones, as flags of the training commands."""
        recipe = self.recipe
        return [
            *(f"{NETWORKS[n]}: `{shlex.join(getattr(recipe, n).words())}`" for n in NETWORKS),
            f"fine-tuning: {recipe.finetune_epochs} epochs, {recipe.finetune_learning_rate:g}",
        ]

    def missing(self) -> list[str]:
        """Commands of what is missing."""
        return [
            make_command(found.row, found.missing, self.recipe)
            for found in self.lines.values()
            if found.missing
        ]

    def markdown(self) -> str:
        """A page."""
        parts = ["# The paper's Table 1 on our corpora"]
        for table in self.tables():
            flat = [tuple(cell.replace("\n", "<br>") for cell in row) for row in table.rows]
            drawn = Table(table.title, table.header, flat)
            note = "\n".join(f"- {fact}" for fact in table.note.split("\n"))
            parts += [f"## {table.title}", drawn.markdown(), note]
        parts += ["## Recipe", "\n".join(f"- {fact}" for fact in self.sizes())]
        if notes := self.notes():
            parts += ["## Notes", "\n".join(f"- {note}" for note in notes)]
        if missing := self.missing():
            parts += ["## Missing", "```sh\n" + "\n".join(missing) + "\n```"]
        return "\n\n".join(parts) + "\n"

    def brief(self) -> Table:
        """Table 1 as far as a terminal is wide."""
        rows = []
        for found in self._of(lambda row: row.block != "ablation"):
            cells = [found.row.id + mark(found)]
            for task in ("gender", "age_group"):
                paper = found.row.published.of(task) if found.row.published else None
                cells.append(shown(found.figures[task]["f1"]) if found.records else "missing")
                cells.append(f"{paper[2]:.2f}" if paper else NOTHING)
            rows.append((*cells, seeds_shown(found)))
        header = ("row", "gender F1", "paper", "age group F1", "paper", "seeds")
        return Table("Table 1", header, rows)

    def show(self, console: Console) -> None:
        """Print what fits a terminal; the page has the rest."""
        ablations = self.ablation()
        short = [(*row[:5], row[-1]) for row in ablations.rows]
        header = (*ablations.header[:5], ablations.header[-1])
        for table in (self.brief(), self.gains(), Table("Ablations", header, short)):
            drawn = RichTable(title=table.title, title_justify="left")
            for name in table.header:
                drawn.add_column(name, overflow="fold")
            for row in table.rows:
                drawn.add_row(*(escape(cell) for cell in row))
            console.print(drawn)
        for said in (*self.notes(), *(f"missing: {command}" for command in self.missing())):
            console.print(said, markup=False, highlight=False, soft_wrap=True)

    def plain(self) -> dict[str, Any]:
        """For JSON: every figure as {value, interval, spread, by_seed}, shares of one."""
        rows = []
        for name, found in self.lines.items():
            row = found.row
            rows.append(
                {
                    **{key: getattr(row, key) for key in ("id", "block", "network", "method")},
                    "reference": row.reference,
                    "paper": asdict(row.published) if row.published else None,
                    "seeds": [record.seed for record in found.records],
                    "missing_seeds": found.missing,
                    "make": make_command(row, found.missing, self.recipe) if found.missing else "",
                    "notes": found.notes,
                    "dev_score": found.dev_score,
                    "code": sorted({record.code for record in found.records}),
                    "flags": found.records[0].flags if found.records else None,
                    "test_speakers": found.records[0].speakers if found.records else None,
                    "figures": {
                        task: {score: plain(value) for score, value in scores.items()}
                        for task, scores in found.figures.items()
                    },
                    "over_base": _plain_differences(self.steps.get(name)),
                    "over_reference": _plain_differences(self.ablations.get(name)),
                }
            )
        drawn = {"level": LEVEL, "draws": DRAWS, "seed": SEED, "over": "speakers of test"}
        return {"rows": rows, "recipe": asdict(self.recipe), "bootstrap": drawn}


def _plain_differences(tasks: dict[str, dict[str, Value | None]] | None) -> dict[str, Any] | None:
    if tasks is None:
        return None
    return {task: {s: plain(v) for s, v in scores.items()} for task, scores in tasks.items()}
