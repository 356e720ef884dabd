"""Format figures with intervals, and tables of them, for Markdown pages and terminals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

NO_FIGURE = "–"  # noqa: RUF001 - an en dash, as tables have it


@dataclass(frozen=True)
class Table:
    """A table before it is drawn.

    Attributes:
        title: stands above it.
        header: names of the columns.
        rows: each as wide as ``header``.
        note: stands below it, may be empty.
        detail: only for a page, too long for a terminal.
    """

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""
    detail: bool = False

    def markdown(self, *, align: Literal["left", "right"] = "right") -> str:
        """Format the table without title and note; the first column is always on the left."""
        ruler = ["---", *["---:" if align == "right" else "---"] * (len(self.header) - 1)]
        lines = [self.header, ruler, *self.rows]
        return "\n".join("| " + " | ".join(_escaped(line)) + " |" for line in lines)

    def print(self, console: Console) -> None:
        """Print the table to a terminal."""
        drawn = RichTable(
            title=self.title or None,
            caption=self.note or None,
            title_justify="left",
            caption_justify="left",
        )
        for number, name in enumerate(self.header):
            side: Literal["left", "right"] = "right" if number else "left"
            drawn.add_column(name, justify=side, no_wrap=not number, overflow="fold")
        for row in self.rows:
            drawn.add_row(*map(escape, row))
        console.print(drawn)


def _escaped(cells: Sequence[str]) -> list[str]:
    return [cell.replace("|", "\\|").replace("\n", "<br>") for cell in cells]


def figure(value: float | None) -> str:
    """Format a share with three decimals, or a dash."""
    return NO_FIGURE if value is None else f"{value:.3f}"


def ranged(
    value: float | None,
    interval: Sequence[float] | None,
    digits: int = 3,
    *,
    signed: bool = False,
) -> str:
    """Format a figure with its interval in brackets; the figure alone if there is none."""
    if value is None:
        return NO_FIGURE
    form = f"{'+' if signed else ''}.{digits}f"
    if interval is None:
        return f"{value:{form}}"
    low, high = interval
    return f"{value:{form}} ({low:{form}} to {high:{form}})"


def cells(at: Mapping[str, Any], keys: Sequence[str], digits: int = 3) -> list[str]:
    """Format figures of one result with their intervals."""
    return [ranged(at[key], at["interval"][key], digits) for key in keys]


def plural(count: int, noun: str) -> str:
    """Format a count with its noun: 1 cell, 2 cells."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
