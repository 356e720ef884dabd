"""From the rows of a manifest to the calls that are made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scoring.manifest import Labelled

SEVERAL = "several"
"""Language of a call that joins utterances of more than one."""


@dataclass(frozen=True)
class Plan:
    """One call to make.

    Attributes:
        id: of the utterance, or corpus/speaker of a joined call.
        corpus: where it comes from.
        gender: label, empty where unknown.
        age_band: label, empty where unknown.
        paths: sound files, in the order they are heard.
        speaker: as the corpus names them, empty where it does not.
        language: as the manifest names it, empty where it does not, None if it has no such column.
    """

    id: str
    corpus: str
    gender: str
    age_band: str
    paths: tuple[Path, ...]
    speaker: str = ""
    language: str | None = None

    @property
    def person(self) -> str:
        """Who speaks, unique across corpora; a call without a speaker is a person of its own."""
        return f"{self.corpus}/speaker/{self.speaker}" if self.speaker else f"/call/{self.id}"


def plans(
    utterances: Sequence[Labelled], *, per_speaker: bool = False, limit: int | None = None
) -> list[Plan]:
    """Calls of a split, in the order of the manifest.

    Args:
        utterances: of one split.
        per_speaker: one call per corpus and speaker; an utterance without a speaker stays alone.
        limit: at most so many calls, spread evenly, because manifests are sorted by corpus.

    Raises:
        ValueError: utterances of one speaker contradict each other; the message names the field.
    """
    groups: dict[tuple[str, ...], list[Labelled]] = {}
    for number, utterance in enumerate(utterances):
        joined = per_speaker and utterance.speaker
        key = (utterance.corpus, utterance.speaker) if joined else ("", "", str(number))
        groups.setdefault(key, []).append(utterance)
    result = [
        Plan(
            id=f"{group[0].corpus}/{group[0].speaker}" if len(key) == 2 else group[0].id,
            corpus=group[0].corpus,
            gender=_agreed("gender", group),
            age_band=_agreed("age_band", group),
            paths=tuple(utterance.path for utterance in group),
            speaker=group[0].speaker,
            language=_language(group),
        )
        for key, group in groups.items()
    ]
    if limit is None or limit >= len(result):
        return result
    return [result[i * len(result) // limit] for i in range(limit)]


def _agreed(field: str, group: Sequence[Labelled]) -> str:
    """The one label that the utterances give, empty if none does."""
    labels = sorted({str(getattr(utterance, field)) for utterance in group} - {""})
    if len(labels) > 1:
        who = f"{group[0].corpus}/{group[0].speaker}"
        raise ValueError(f"{field}: speaker {who} is labelled {' and '.join(labels)}")
    return labels[0] if labels else ""


def _language(group: Sequence[Labelled]) -> str | None:
    """The language of a call; speaking several contradicts nothing."""
    if any(utterance.language is None for utterance in group):
        return None
    found = sorted({utterance.language or "" for utterance in group} - {""})
    if len(found) > 1:
        return SEVERAL
    return found[0] if found else ""
