"""A list of recordings: one's own, or anything else that fits a table.

Tab- or comma-separated UTF-8 with a header. Needed are the columns ``path`` (relative to the
list, absolute, or ``ARCHIVE.zip!MEMBER``), ``speaker``, ``gender``, and ``age`` or ``age_band``.
Optional are ``id``, ``corpus``, ``language``, ``licence``, ``line``, ``split`` and ``seconds``;
other columns are passed over.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from train.corpora.faults import Unusable
from train.corpora.labelfile import seconds_of
from train.corpora.table import Row, needed, read_rows
from train.corpora.utterance import Rejected, Utterance
from train.corpora.values import age_of, gender_of, text

NAMES = ("manifest.tsv", "manifest.csv")
"""Where the list is looked for in a folder."""
_SPLITS = {"": "", "train": "train", "dev": "dev", "test": "test"}
_SPLITS |= {"training": "train", "valid": "dev", "validation": "dev"}
_LINES = {"": "wideband", "wideband": "wideband", "telephone": "telephone"}


def read(manifest: Path) -> Iterator[Utterance | Rejected]:
    """Utterances of a list, or of the ``manifest.tsv`` or ``manifest.csv`` in a folder.

    Raises:
        ValueError: no list, not UTF-8, or a needed column is missing.
    """
    if manifest.is_dir():
        found = [manifest / name for name in NAMES if (manifest / name).exists()]
        if not found:
            raise ValueError(f"{manifest}: no {' or '.join(NAMES)} in it")
        manifest = found[0]
    try:
        for row in read_rows(manifest, ("path", "speaker", "gender", "age|age_band")):
            if isinstance(row, Rejected):
                yield row
                continue
            try:
                yield _utterance(row.cells, manifest)
            except Unusable as fault:
                source = row.cells["path"] or str(manifest)
                yield Rejected(source, fault.reason, f"{_where(row, manifest)}: {fault.detail}")
    except Unusable as fault:
        raise ValueError(f"{manifest}: {fault}") from fault


def _where(row: Row, manifest: Path) -> str:
    return f"{manifest.name} line {row.line}"


def _utterance(cells: dict[str, str], manifest: Path) -> Utterance:
    path = needed(cells, "path", "audio missing")
    age, band = _age(cells)
    return Utterance(
        id=cells.get("id") or str(Path(path).with_suffix("")).replace("/", "-"),
        corpus=cells.get("corpus") or manifest.resolve().parent.name or manifest.stem,
        speaker=needed(cells, "speaker", "speaker missing"),
        gender=gender_of(cells["gender"]),
        source=str(manifest.parent / path),
        age=age,
        age_band=band,
        language=text(cells.get("language")),
        licence=text(cells.get("licence")),
        line=_choice(cells, "line", _LINES),
        split=_choice(cells, "split", _SPLITS),
        seconds=seconds_of(cells.get("seconds")),
    )


def _age(cells: dict[str, str]) -> tuple[float | None, str]:
    age, band = age_of(cells.get("age"))
    _, stated = age_of(cells.get("age_band"))
    if band and stated and band != stated:
        what = f"age {cells['age']!r}, age_band {cells['age_band']!r}"
        raise Unusable("age contradicts age band", what)
    return age, band or stated


def _choice(cells: dict[str, str], column: str, choices: dict[str, str]) -> str:
    stated = text(cells.get(column)).casefold()
    if stated not in choices:
        known = ", ".join(name for name in choices if name)
        raise Unusable(f"{column} unknown", f"{column} {cells[column]!r}, not one of {known}")
    return choices[stated]
