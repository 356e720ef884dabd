"""The list of labelled sound files that the accuracy benchmark reads.

Tab-separated UTF-8 with a header; columns ``id corpus speaker gender age_band split path``, and
``language`` if there is one; others are passed over. Stricter than ``train.prepare`` about the
table and looser about what is in it: any name of a split, every label as it stands, because a
measurement must not clean its data.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

COLUMNS = ("id", "corpus", "speaker", "gender", "age_band", "split", "path")


@dataclass(frozen=True)
class Labelled:
    """One row of a manifest; labels are empty where unknown, ``language`` None without a column."""

    id: str
    corpus: str
    speaker: str
    gender: str
    age_band: str
    split: str
    path: Path
    language: str | None = None


def read_manifest(manifest: Path, split: str | None = None) -> list[Labelled]:
    """Rows of ``manifest``, of one split or of all.

    Raises:
        ValueError: not UTF-8, a column or a cell is missing, or no row has that split; the
            message names which.
    """
    try:
        text = manifest.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{manifest}: not UTF-8 at byte {error.start}") from error
    reader = csv.DictReader(text.splitlines(), delimiter="\t")
    missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
    if missing:
        raise ValueError(f"{manifest}: no column {', '.join(missing)}")
    rows = []
    for row in reader:
        # A row that ends early lacks the cell of a column that is there.
        absent = [column for column in (*COLUMNS, "language") if row.get(column, "") is None]
        if absent:
            raise ValueError(f"{manifest} line {reader.line_num}: no {', '.join(absent)}")
        rows.append(
            Labelled(
                id=row["id"],
                corpus=row["corpus"],
                speaker=row["speaker"],
                gender=row["gender"],
                age_band=row["age_band"],
                split=row["split"],
                path=manifest.parent / row["path"],
                language=row.get("language"),
            )
        )
    chosen = [row for row in rows if split is None or row.split == split]
    if not chosen:
        splits = sorted({row.split for row in rows})
        raise ValueError(f"{manifest}: no utterance in split {split!r}; it has {splits}")
    return chosen
