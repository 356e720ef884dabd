"""The list that tells training which utterances to leave out or to count for less.

Tab-separated with a header. Training needs ``id`` and ``weight``; the other columns say why
(``train/label_noise.py`` writes them), so that a list can be read, argued with and edited by hand.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Doubt:
    """One utterance whose label is doubted; the columns of the list in order.

    Attributes:
        id: of the cut, "corpus/utterance-id".
        speaker: "corpus/speaker".
        task: "gender" or "age_group".
        given: label in the corpus.
        suggested: label that the voice suggests.
        confidence: probability of ``suggested``, 0 to 1.
        weight: 0 leaves the utterance out of training, 1 keeps it whole.
    """

    id: str
    speaker: str
    task: str
    given: str
    suggested: str
    confidence: float
    weight: float


COLUMNS = tuple(Doubt.__dataclass_fields__)
REQUIRED = ("id", "weight")


def write_weights(doubts: Iterable[Doubt], path: Path) -> None:
    """Write a list, replacing ``path`` in one step; an empty one is a header alone.

    Raises:
        ValueError: an id or speaker holds a tab or a line break.
    """
    lines = [COLUMNS, *(_cells(doubt) for doubt in doubts)]
    partial = path.with_name(path.name + ".partial")
    partial.write_text("".join("\t".join(line) + "\n" for line in lines), encoding="utf-8")
    partial.replace(path)


def _cells(doubt: Doubt) -> tuple[str, ...]:
    row = asdict(doubt) | {"confidence": f"{doubt.confidence:.4f}", "weight": f"{doubt.weight:g}"}
    for field, value in row.items():
        if not value or len(value.splitlines()) > 1 or "\t" in value:
            raise ValueError(f"{field} {value!r} cannot be listed: it is empty or breaks the table")
    return tuple(row.values())


def read_weights(path: Path) -> dict[str, float]:
    """Weight in [0, 1] of each listed cut id; whatever is not listed counts whole.

    An utterance that is listed twice, for two tasks, gets the smaller weight.

    Raises:
        OSError: the file cannot be read.
        ValueError: not UTF-8, no such column, an empty id, or a weight that is no number from 0
            to 1; the message names line and field.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 at byte {error.start}") from error
    lines = text.splitlines()
    header = lines[0].split("\t") if lines else []
    for column in REQUIRED:
        if header.count(column) != 1:
            raise ValueError(f"{path} line 1: {header.count(column)} columns {column!r}, needs one")
    weights: dict[str, float] = {}
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        cells = line.split("\t")
        if len(cells) != len(header):
            raise ValueError(f"{path} line {number}: {len(cells)} fields, header has {len(header)}")
        row = dict(zip(header, cells, strict=True))
        if not row["id"]:
            raise ValueError(f"{path} line {number}: id is empty")
        weight = _weight(row["weight"], f"{path} line {number}")
        weights[row["id"]] = min(weight, weights.get(row["id"], 1.0))
    return weights


def _weight(text: str, where: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0 <= weight <= 1:  # false for NaN too
        raise ValueError(f"{where}: weight {text!r} is no number from 0 to 1")
    return weight
