"""The result of ``accuracy.py`` for people: tables in the terminal and in Markdown."""

from __future__ import annotations

from typing import Literal

from rich.console import Console
from rich.table import Table as RichTable

from scoring.group_tables import group_tables
from scoring.tables import (
    TASKS,
    Result,
    Table,
    calibration,
    decisions,
    per_class,
    speech,
    summary,
)

HONESTY = (
    "Labels are perceived binary gender and age band, as the corpora state them; the telephone is "
    "simulated: recordings coded as 8 kHz mu-law, no real line."
)


def tables(result: Result) -> list[Table]:
    """All tables of a result, most important first; those without a row are left out."""
    made = [summary(result), per_class(result), decisions(result), calibration(result)]
    for everyone in (True, False):
        made += [speech(result, task, everyone=everyone) for task in TASKS]
    return [table for table in (*made, *group_tables(result)) if table.rows]


def facts(result: Result) -> list[str]:
    """What was measured, a sentence each; the last one is the caveat on labels and channel."""
    unit = "calls, one per speaker" if result["per_speaker"] else "calls, one per utterance"
    band = "300-3400 Hz" if result["band"] == "telephone" else "full band"
    lost = result["updates"]["due"] - result["updates"]["received"]
    lines = [
        f"Model {result['model']}; split {result['split']} of {result['manifest']}; {band}.",
        f"{result['calls']} {unit}, {result['speakers']} speakers, "
        f"{result['seconds_of_audio']:.0f} s of audio; "
        f"{result['failed']} failed, {result['no_speech']} without speech (counted as wrong); "
        f"{lost} of {result['updates']['due']} running predictions lost.",
        *result["unmeasured"],
    ]
    lines += [f"Failed: {failure['id']}: {failure['reason']}" for failure in result["failures"]]
    return [*lines, HONESTY]


def show(result: Result, console: Console) -> None:
    """Print tables and facts to a terminal; what is too long for one is named."""
    made = tables(result)
    for table in made:
        if table.detail:
            continue
        drawn = RichTable(
            title=table.title,
            caption=table.note or None,
            title_justify="left",
            caption_justify="left",
        )
        for number, name in enumerate(table.header):
            side: Literal["left", "right"] = "right" if number else "left"
            drawn.add_column(name, justify=side, no_wrap=not number, overflow="fold")
        for row in table.rows:
            drawn.add_row(*row)
        console.print(drawn)
    more = sum(table.detail for table in made)
    left = f"{more} longer tables, by corpus, language and cell, are in --markdown."
    for line in (*facts(result), left):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def markdown(result: Result, command: str) -> str:
    """The result as a page.

    Args:
        result: as written to JSON.
        command: that made it, without machine paths.
    """
    parts = ["# Accuracy", f"```sh\n{command}\n```"]
    parts.append("\n".join(f"- {line}" for line in facts(result)))
    for table in tables(result):
        parts += [f"## {table.title}", table.markdown()]
        if table.note:
            parts.append(table.note)
    return "\n\n".join(parts) + "\n"
