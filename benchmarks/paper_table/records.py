"""Records of finished runs: small files that the table is made of, on any machine.

One JSON object per run, ``<row>-s<seed>.json``:

``row``, ``seed``, ``flags``
    what was run; folders by role and other runs by name, no path
``code``, ``torch``, ``device``
    git describe, version, processor
``seconds``, ``epochs``, ``best_epoch``, ``dev_score``
    of the training; the score is what chose the epoch, gender F1 and age group F1 added
``parameters``, ``encoder``
    of the network
``classes``
    names by task
``dev``, ``test``
    by task {precision, recall, f1, accuracy, n}: macro over the classes that occur, recall is the
    unweighted average recall; ``gender`` is of adults (known age, no child, as accuracy.py counts
    them), ``gender_everyone`` of all
``speakers`` {count, digest, data}
    of the test split; the digest of their sorted names, and one of all utterances, labels and the
    telephone of the folder: only records that agree in them are averaged or paired
``confusions``
    of test, by task one list per speaker in that order, of [true, predicted, utterances];
    predicted is -1 where no speech was heard, which counts as wrong
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from intervals import Floats

from paper_table.recipe import run_name

Confusions = list[list[list[int]]]
Figures = dict[str, dict[str, float | int | None]]


@dataclass(frozen=True)
class Record:
    """A finished run; the fields are the keys that the module explains."""

    row: str
    seed: int
    flags: list[str]
    code: str
    torch: str
    device: str
    seconds: float
    epochs: int
    best_epoch: int
    dev_score: float
    parameters: int
    encoder: dict[str, Any]
    classes: dict[str, list[str]]
    dev: Figures
    test: Figures
    speakers: dict[str, Any]
    confusions: dict[str, Confusions]

    @property
    def name(self) -> str:
        """Of the file and of the run's folder."""
        return run_name(self.row, self.seed)

    def tables(self, task: str) -> Floats:
        """Confusion matrices of the test speakers, as ``intervals.confusions`` makes them."""
        classes = len(self.classes[task.removesuffix("_everyone")])
        made = np.zeros((self.speakers["count"], classes, classes + 1))
        for speaker, cells in enumerate(self.confusions[task]):
            for true, predicted, count in cells:
                made[speaker, true, predicted] += count  # -1 is the last column: no answer
        return made


def compact(tables: Floats) -> Confusions:
    """What :meth:`Record.tables` reads."""
    last = tables.shape[2] - 1
    return [
        [
            [int(true), -1 if said == last else int(said), int(table[true, said])]
            for true, said in np.argwhere(table)
        ]
        for table in tables
    ]


def text_of(record: Record) -> str:
    """JSON with a line for every key, and one for every task of dev, test and confusions."""
    lines = []
    for key, value in asdict(record).items():
        if key in ("dev", "test", "confusions"):
            tasks = ",\n".join(f"  {_line(task)}: {_line(part)}" for task, part in value.items())
            lines.append(f" {_line(key)}: {{\n{tasks}\n }}")
        else:
            lines.append(f" {_line(key)}: {_line(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _line(value: Any) -> str:  # noqa: ANN401 - whatever JSON has
    nested = isinstance(value, list) and any(isinstance(part, list) for part in value)
    short = (",", ":") if nested else None  # the counts are long: no blanks between them
    return json.dumps(value, separators=short, allow_nan=False, ensure_ascii=False)


def write(record: Record, folder: Path) -> Path:
    """Write a record in one step, so that a kill cannot tear it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{record.name}.json"
    partial = path.with_suffix(f".{os.getpid()}.tmp")
    partial.write_text(text_of(record), encoding="utf-8")
    partial.replace(path)
    return path


def read(path: Path) -> Record:
    """A record; raises ValueError for a file that is none."""
    try:
        return Record(**json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: no record of a run: {error}") from error


def read_all(folder: Path) -> dict[tuple[str, int], Record]:
    """All records of a folder by row and seed; raises ValueError for one that cannot be read."""
    found = [read(path) for path in sorted(folder.glob("*-s*.json"))]
    return {(record.row, record.seed): record for record in found}
