"""Show the summary of Table 1: a page of tables, and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from train.evaluation.tables import NO_FIGURE, Table
from train.experiments.table1_rows import ROWS

Summary = dict[str, Any]

BLOCKS = ("clean", "telephone", "inhouse")
TASKS = ("gender", "age_group", "age_band")
TITLES = {"gender": "gender of adults, F1", "age_group": "age group, F1"}
COLOURS = {"gender": "#0072b2", "age_group": "#d55e00"}
FACTS = (
    "Per cent, macro averages over classes; R is the unweighted average recall. Gender is that of "
    "adults. Tested on whole utterances of the test split.",
    "Ours: mean over seeds, in brackets its 95 % interval by resampling the speakers of the test "
    "split, the same draws for all rows; below it the paper's.",
    "The corpora of the paper are Korean, not free and not ours, its age groups are not published, "
    "and our telephone is simulated: the figures cannot be compared across, only what each step "
    "is worth. Sizes and schedules are ours too; the paper publishes none.",
    "Labels are perceived binary gender and age band, as the corpora state them.",
    "+ MKD (mse): the paper's brackets, read as differences to the cosine above them. Rows without "
    "a number of the paper are combinations that it does not report.",
)


def shown(found: list[float | None] | None, *, signed: bool = False) -> str:
    """Format a figure in per cent with its interval."""
    if found is None or found[0] is None:
        return NO_FIGURE
    form = "+.1f" if signed else ".1f"
    value, *ends = (f"{100 * part:{form}}" for part in found if part is not None)
    return f"{value} [{', '.join(ends)}]" if ends else value


def tables(summary: Summary) -> list[Table]:
    """Make Table 1, what each step is worth, the ablations, and the ranking of age groups."""
    main: list[tuple[str, ...]] = []
    steps: list[tuple[str, ...]] = []
    ablations: list[tuple[str, ...]] = []
    ranking: list[tuple[str, ...]] = []
    for name, found in summary["rows"].items():
        row, figures, over_base = ROWS[name], found["figures"], found["over_base"]
        paper, seeds = row.paper, str(len(found["seeds"]))
        base = ROWS[row.base].paper if row.base else None
        if not figures:
            continue
        if row.block in BLOCKS:
            cells = []
            for place, (task, score) in enumerate(
                (task, score) for task in TITLES for score in ("precision", "recall", "f1")
            ):
                theirs = f"paper {paper[place]:.2f}" if paper else NO_FIGURE
                cells.append(f"{shown(figures[task][score])}\n{theirs}")
            main.append((name, row.method, *cells, seeds))
        if over_base and row.block in BLOCKS:
            cells = []
            for place, task in ((2, "gender"), (5, "age_group")):
                theirs = f"{paper[place] - base[place]:+.2f}" if paper and base else NO_FIGURE
                cells += [shown(over_base[task], signed=True), theirs]
            steps.append((name, row.base or "", *cells))
        if row.block == "ablation":
            cells = [shown(figures[task]["f1"]) for task in TASKS]
            more = [shown(over_base.get(task), signed=True) for task in TASKS]
            pairs = [cell for pair in zip(cells, more, strict=True) for cell in pair]
            ablations.append((row.method, row.base or "", *pairs, seeds))
        values = [figures["age_group"].get(score) for score in ("f1", "f1_shifted", "auc")]
        if all(values[1:]):
            ranking.append((name, *map(shown, values)))
    scores = ("gender P", "R", "F1", "age group P", "R", "F1")
    each = ("gender F1", "more", "age group F1", "more", "age band F1", "more")
    return [
        Table("Table 1", ("row", "method", *scores, "seeds"), main, "\n".join(FACTS)),
        Table(
            "What each step is worth",
            ("row", "base", "gender F1", "paper", "age group F1", "paper"),
            steps,
            "Points of F1 more than the base, in pairs of speakers and of seeds.",
        ),
        Table(
            "Ablations",
            ("change", "against", *each, "seeds"),
            ablations,
            "Telephone, ECAPA, one change each; more: points more than the reference, in pairs of "
            "speakers and of seeds. K after training: the trained students of the reference with "
            "another dictionary.",
        ),
        Table(
            "Ranking of the age groups",
            ("row", "F1", "F1 shifted", "AUC"),
            ranking,
            "Figures that depend less on the class prior; an AUC of 50 is chance.",
        ),
    ]


def markdown(summary: Summary) -> str:
    """Format the summary as a page."""
    parts = ["# The paper's Table 1 on our corpora"]
    for table in tables(summary):
        if table.rows:
            notes = "\n".join(f"- {fact}" for fact in table.note.split("\n"))
            parts += [f"## {table.title}", table.markdown(), notes]
    odd = [f"- {name}: {note}" for name, row in summary["rows"].items() for note in row["notes"]]
    parts += ["## Notes", "\n".join(odd)] if odd else []
    return "\n\n".join(parts) + "\n"


def picture(summary: Summary, path: Path) -> None:
    """Draw F1 of gender and of age group, ours with intervals beside the paper's."""
    from matplotlib.figure import Figure as Drawing  # noqa: PLC0415 - only --picture needs it

    rows = [row for row in ROWS.values() if row.block in BLOCKS]
    drawing = Drawing(figsize=(12, 0.33 * len(rows) + 1.6), layout="constrained")
    panels = drawing.subplots(1, 2, sharey=True)
    for axes, (task, title), place in zip(panels, TITLES.items(), (2, 5), strict=True):
        for height, row in enumerate(rows):
            if row.paper:
                axes.plot(row.paper[place], height, "D", color="0.35", fillstyle="none")
            figures = summary["rows"][row.id]["figures"]
            if figures:
                value, *interval = figures[task]["f1"]
                ends = [100 * end for end in interval if end is not None]
                if ends:
                    axes.plot(ends, [height, height], color=COLOURS[task], linewidth=2)
                axes.plot(100 * value, height, "o", color=COLOURS[task])
        axes.set(title=title, xlabel="per cent")
        axes.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(rows)), [row.id for row in rows])
    panels[0].invert_yaxis()
    panels[0].plot([], [], "o-", color="0.2", label="ours, 95 % over speakers")
    panels[0].plot([], [], "D", color="0.35", fillstyle="none", label="the paper's, other corpora")
    drawing.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    drawing.savefig(path, dpi=120, format="png")
