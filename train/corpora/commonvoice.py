"""A Common Voice release: ``<language>/{train,dev,test,validated}.tsv`` and ``clips/``.

``validated`` adds the validated clips that the published splits leave out; ``other`` (not yet
voted on) and ``invalidated`` are not read. Genders are ``female`` and ``male`` up to release 16,
``female_feminine`` and ``male_masculine`` later; ages are decades in words.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from train.corpora.faults import Unusable
from train.corpora.table import Row, needed, read_rows
from train.corpora.utterance import Rejected, Utterance
from train.corpora.values import band_of_range, decade, gender_of, text

CORPUS = "commonvoice"
TABLES = {"train": "train", "dev": "dev", "test": "test", "validated": ""}
"""Table -> split that its rows belong to; the unassigned ones last."""
_DECADES = {
    "teens": 10,
    "twenties": 20,
    "thirties": 30,
    "fourties": 40,  # as Common Voice spells it
    "forties": 40,
    "fifties": 50,
    "sixties": 60,
    "seventies": 70,
    "eighties": 80,
    "nineties": 90,
}


def read(folder: Path) -> Iterator[Utterance | Rejected]:
    """Utterances of a release, or of one language of it.

    Raises:
        ValueError: neither the folder nor a subfolder has such a table.
    """
    languages = [
        place
        for place in (folder, *sorted(path for path in folder.glob("*") if path.is_dir()))
        if any((place / f"{table}.tsv").exists() for table in TABLES)
    ]
    if not languages:
        raise ValueError(f"{folder}: no {', '.join(f'{table}.tsv' for table in TABLES)} in it")
    for place in languages:
        yield from _language(place)


def _language(folder: Path) -> Iterator[Utterance | Rejected]:
    seen: set[str] = set()
    for table, split in TABLES.items():
        path = folder / f"{table}.tsv"
        if not path.exists():
            continue
        try:
            for row in read_rows(path, ("client_id", "path", "gender", "age")):
                if isinstance(row, Rejected):
                    yield row
                elif row.cells["path"] not in seen:  # validated repeats the splits' rows
                    seen.add(row.cells["path"])
                    yield _utterance(row, folder, split, path)
        except Unusable as fault:
            yield fault.at(str(path))


def _utterance(row: Row, folder: Path, split: str, table: Path) -> Utterance | Rejected:
    cells = row.cells
    # early releases leave the suffix out
    file = cells["path"] if Path(cells["path"]).suffix else f"{cells['path']}.mp3"
    try:
        return Utterance(
            id=Path(file).stem,
            corpus=CORPUS,
            speaker=needed(cells, "client_id", "speaker missing"),
            gender=gender_of(cells["gender"]),
            source=str(folder / "clips" / needed({"path": file}, "path", "audio missing")),
            age_band=_band(cells["age"]),
            language=cells.get("locale") or folder.name,
            licence="CC0-1.0",
            split=split,
        )
    except Unusable as fault:
        return Rejected(str(table), fault.reason, f"line {row.line}: {fault.detail}")


def _band(value: str) -> str:
    stated = text(value).casefold()
    if not stated:
        return ""
    if stated not in _DECADES:
        raise Unusable("age not understood", f"age {value!r}")
    return band_of_range(*decade(_DECADES[stated]))
