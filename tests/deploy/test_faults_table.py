"""The tests that the table of faults names are there."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
TABLE = TESTS.parent / "deploy" / "faults.md"
TOKEN = re.compile(r"`([\w/]+\.py)?(?:::)?(test_\w+)?`")
"""A file, a test in it, or another test of the file before."""


def rows():
    """Cells of what is tested, without the heading."""
    lines = [line for line in TABLE.read_text().splitlines() if line.startswith("| ")]
    return [line.rstrip("| ").rpartition("|")[2].strip() for line in lines[1:]]


@pytest.mark.parametrize("cell", rows())
def test_what_the_table_names_is_there(cell):
    path, found = None, 0
    for file, name in TOKEN.findall(cell):
        path = TESTS / file if file else path
        assert path is not None, cell
        assert not name or re.search(rf"def {name}\(", path.read_text()), f"{path}: {name}"
        found += 1
    assert found == cell.count("`") / 2 > 0
