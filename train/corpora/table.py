"""Rows of a tab- or comma-separated file, each fault costing its own row only."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from train.corpora.faults import Unusable
from train.corpora.utterance import Rejected
from train.corpora.values import text


class Row(NamedTuple):
    """A row: line of the file, counted from 1, and stripped cells by lower-case column name."""

    line: int
    cells: dict[str, str]


def read_rows(path: Path, required: Sequence[str]) -> Iterator[Row | Rejected]:
    """Rows of a UTF-8 file with a header; tabs separate where the header has one, else commas.

    Quotes mean something between commas only: tab-separated transcripts are full of single ones.

    Args:
        path: of the table.
        required: columns it must have; ``a|b`` asks for one of two.

    Raises:
        Unusable: no such file, a header that is not UTF-8 or lacks one of ``required``.
    """
    try:
        # a byte that is no UTF-8 becomes a lone surrogate, which marks its row and no other
        file = path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")
    except OSError as error:
        raise Unusable("table unreadable", error.strerror or str(error)) from error
    with file:
        header = file.readline()
        tabs = "\t" in header
        names = [name.strip().lower() for name in header.strip("\r\n").split("\t" if tabs else ",")]
        names = [name.strip('"') for name in names]
        missing = [name for name in required if not set(name.split("|")) & set(names)]
        if missing:
            raise Unusable("column missing", f"{', '.join(missing)}; there are {', '.join(names)}")
        cells = csv.reader(
            file,
            delimiter="\t" if tabs else ",",
            quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL,
        )
        while True:
            try:
                row = next(cells, None)
            except csv.Error as error:
                yield Rejected(str(path), "row broken", f"line {cells.line_num + 1}: {error}")
                continue
            if row is None:
                return
            if row:
                yield _checked(row, names, cells.line_num + 1, path)


def needed(cells: dict[str, str], column: str, reason: str) -> str:
    """A cell that may not be empty; raises Unusable for ``reason`` if it is."""
    if not text(cells[column]):
        raise Unusable(reason, f"{column} {cells[column]!r}")
    return cells[column]


def _checked(row: list[str], names: list[str], line: int, path: Path) -> Row | Rejected:
    if len(row) != len(names):
        what = f"line {line}: {len(row)} cells under {len(names)} columns"
        return Rejected(str(path), "row broken", what)
    if any("\udc80" <= letter <= "\udcff" for cell in row for letter in cell):
        return Rejected(str(path), "row not UTF-8", f"line {line}: save the file as UTF-8")
    return Row(line, dict(zip(names, (cell.strip() for cell in row), strict=True)))
