"""Read the manifest of labelled sound files and plan the calls that are made of it.

A manifest is tab-separated UTF-8 with a header; columns ``id corpus speaker gender age_band split
path`` and, optionally, ``language``; other columns are ignored. The table is checked more strictly
than by ``train.prepare``, its contents less: any split name and every label pass as they are,
because a measurement must not clean its data.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

COLUMNS = ("id", "corpus", "speaker", "gender", "age_band", "split", "path")
SEVERAL_LANGUAGES = "several"


@dataclass(frozen=True)
class Utterance:
    """One row of a manifest; labels are empty if unknown, ``language`` None without a column."""

    id: str
    corpus: str
    speaker: str
    gender: str
    age_band: str
    split: str
    path: Path
    language: str | None = None


@dataclass(frozen=True)
class CallPlan:
    """One call to make; labels as in :class:`Utterance`, ``paths`` in the order of sending.

    ``id`` is of the utterance, or corpus/speaker of a joined call.
    """

    id: str
    corpus: str
    gender: str
    age_band: str
    paths: tuple[Path, ...]
    speaker: str = ""
    language: str | None = None

    @property
    def speaker_key(self) -> str:
        """Speaker, unique across corpora; a call without one is a speaker of its own."""
        return f"{self.corpus}/speaker/{self.speaker}" if self.speaker else f"/call/{self.id}"


def read_manifest(manifest: Path, split: str) -> list[Utterance]:
    """Read the rows of one split.

    Raises OSError, or ValueError that names what is wrong: not UTF-8, a missing column or cell, or
    no row of that split.
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
        # DictReader gives None for the cells that a short row lacks.
        absent = [column for column in (*COLUMNS, "language") if row.get(column, "") is None]
        if absent:
            raise ValueError(f"{manifest} line {reader.line_num}: no {', '.join(absent)}")
        labels = {column: row[column] for column in COLUMNS if column != "path"}
        path = manifest.parent / row["path"]
        rows.append(Utterance(**labels, path=path, language=row.get("language")))
    chosen = [row for row in rows if row.split == split]
    if not chosen:
        splits = sorted({row.split for row in rows})
        raise ValueError(f"{manifest}: no utterance in split {split!r}; it has {splits}")
    return chosen


def plan_calls(
    utterances: Sequence[Utterance], *, per_speaker: bool = False, limit: int | None = None
) -> list[CallPlan]:
    """Plan the calls of a split, in the order of the manifest.

    ``per_speaker`` joins by corpus and speaker; an utterance without a speaker stays alone. At most
    ``limit``, spread evenly, because manifests are sorted by corpus. Raises ValueError, naming the
    field, if utterances of one speaker contradict each other.
    """
    groups: dict[tuple[str, ...], list[Utterance]] = {}
    for number, utterance in enumerate(utterances):
        joined = per_speaker and utterance.speaker
        key = (utterance.corpus, utterance.speaker) if joined else ("", "", str(number))
        groups.setdefault(key, []).append(utterance)
    plans = [
        CallPlan(
            id=f"{group[0].corpus}/{group[0].speaker}" if len(key) == 2 else group[0].id,
            corpus=group[0].corpus,
            gender=_common_label("gender", group),
            age_band=_common_label("age_band", group),
            paths=tuple(utterance.path for utterance in group),
            speaker=group[0].speaker,
            language=_common_language(group),
        )
        for key, group in groups.items()
    ]
    if limit is None or limit >= len(plans):
        return plans
    return [plans[i * len(plans) // limit] for i in range(limit)]


def _common_label(field: str, group: Sequence[Utterance]) -> str:
    """Return the one label of a speaker's utterances, empty if none has it."""
    labels = sorted({str(getattr(utterance, field)) for utterance in group} - {""})
    if len(labels) > 1:
        speaker = f"{group[0].corpus}/{group[0].speaker}"
        raise ValueError(f"{field}: speaker {speaker} is labelled {' and '.join(labels)}")
    return labels[0] if labels else ""


def _common_language(group: Sequence[Utterance]) -> str | None:
    """Return the language of a call; a speaker of several languages is no contradiction."""
    if any(utterance.language is None for utterance in group):
        return None
    found = sorted({utterance.language or "" for utterance in group} - {""})
    if len(found) > 1:
        return SEVERAL_LANGUAGES
    return found[0] if found else ""
