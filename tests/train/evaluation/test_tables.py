"""Figures with intervals, tables of them, and what names a measurement."""

from __future__ import annotations

import io
import os
import re

import pytest
from rich.console import Console

from train.evaluation.machine import code_version, device_name
from train.evaluation.tables import NO_FIGURE, Table, cells, figure, plural, ranged


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ranged(None, (0.1, 0.2)), NO_FIGURE),
        (ranged(0.5, None), "0.500"),
        (ranged(0.5, (0.4, 0.6)), "0.500 (0.400 to 0.600)"),
        (ranged(0.5, [-0.4, 0.6], 1, signed=True), "+0.5 (-0.4 to +0.6)"),
        (figure(None), NO_FIGURE),
        (figure(0.1234), "0.123"),
        (plural(1, "call"), "1 call"),
        (plural(2090, "call"), "2,090 calls"),
    ],
)
def test_figures(text, expected):
    assert text == expected


def test_cells_take_the_interval_of_their_key():
    at = {"f1": 0.5, "recall": 0.25, "interval": {"f1": [0.4, 0.6], "recall": None}}
    assert cells(at, ["f1", "recall"], 2) == ["0.50 (0.40 to 0.60)", "0.25"]


def test_a_table_in_markdown_and_in_a_terminal():
    table = Table("Title", ("", "a|b"), [("row", "x\ny"), ("[bold]", "1")], "a note")
    assert table.markdown() == ("|  | a\\|b |\n| --- | ---: |\n| row | x<br>y |\n| [bold] | 1 |")
    assert "| --- | --- |" in table.markdown(align="left")
    console = Console(file=io.StringIO(), width=80)
    table.print(console)
    printed = console.file.getvalue()
    assert all(text in printed for text in ("Title", "[bold]", "a note"))


def test_the_machine_and_the_code_have_a_name():
    assert device_name().endswith(f", {os.cpu_count()} cores")
    assert re.fullmatch(r"[0-9a-f]{12}(-dirty)?|unknown|.+-g[0-9a-f]{12}(-dirty)?", code_version())
