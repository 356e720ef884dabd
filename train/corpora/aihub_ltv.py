"""AI-Hub low-quality telephone speech (LTV, data set 571): real counselling calls, 8 kHz.

One JSON per call beside the transcripts, audio in other archives or folders::

    1.Training/라벨링데이터_230316/TL_D04.zip!D04/J18/S023423/S023423.json
    1.Training/원천데이터_230316/TS_D04.zip!D04/J18/S023423/0005.wav

Ages are decades, so there is a band and never an exact age.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from train.corpora.faults import Unusable
from train.corpora.labelfile import items, read_json, seconds_of, section, split_of
from train.corpora.tree import AudioIndex, Entry, scan
from train.corpora.utterance import Rejected, Utterance
from train.corpora.values import band_of_decade, gender_of, text

CORPUS = "aihub-ltv"
_REAL_ID = re.compile(r"[0-9A-Za-z_-]*\d{4,}[0-9A-Za-z_-]*")
"""An id that can tell people of the whole corpus apart; ``1``, ``고객1`` and ``김XX`` cannot."""


def read(folder: Path) -> Iterator[Utterance | Rejected]:
    """Utterances below ``folder``, which may be the data set or any part of it.

    A broken dialog costs itself, a broken JSON its call.

    Raises:
        ValueError: no such folder.
    """
    labels, audio, rejected = scan(folder, lambda entry: entry.suffix == ".json", depth=2)
    yield from rejected
    for label in labels:
        try:
            data = section(read_json(label), "dataSet")
            speakers = _speakers(items(section(data, "typeInfo"), "speakers"))
            dialogs = items(data, "dialogs")
        except Unusable as fault:
            yield fault.at(label.source)
            continue
        for number, dialog in enumerate(dialogs, 1):
            try:
                yield _utterance(dialog, speakers, label, audio)
            except Unusable as fault:
                where = f"dialog {number}: {fault.detail}"
                yield Rejected(label.source, fault.reason, where)


def _speakers(listed: list[Any]) -> dict[str, list[dict[str, Any]]]:
    """Speakers of one call by id; more than one where the masking made ids equal."""
    by_id: dict[str, list[dict[str, Any]]] = {}
    for speaker in listed:
        if isinstance(speaker, dict):
            by_id.setdefault(text(speaker.get("id")), []).append(speaker)
    return by_id


def _utterance(
    dialog: object, speakers: dict[str, list[dict[str, Any]]], label: Entry, audio: AudioIndex
) -> Utterance:
    if not isinstance(dialog, dict):
        raise Unusable("dialog not an object", f"a {type(dialog).__name__}")
    path = text(dialog.get("audioPath")).replace("\\", "/")
    if not path:
        raise Unusable("label incomplete", "no 'audioPath'")
    speaker_id = text(dialog.get("speaker"))
    meant = speakers.get(speaker_id, [])
    if not meant:
        raise Unusable("speaker missing", f"speaker {dialog.get('speaker')!r} is not listed")
    if len(meant) > 1:
        raise Unusable("speaker ambiguous", f"{len(meant)} speakers have the id {speaker_id!r}")
    gender, band = gender_of(meant[0].get("gender")), band_of_decade(meant[0].get("age"))
    sound = _audio(path, label, audio)
    call = "-".join(path.split("/")[-4:-1]) or label.stem
    return Utterance(
        id=f"{call}-{sound.stem}",
        corpus=CORPUS,
        speaker=_speaker(speaker_id, meant[0], call),
        gender=gender,
        source=sound.source,
        age_band=band,
        language="ko",
        licence="AI-Hub",
        line="telephone",
        split=split_of(sound),
        seconds=seconds_of(dialog.get("duration")),
    )


def _audio(path: str, label: Entry, audio: AudioIndex) -> Entry:
    """By call and file name: the folders before them differ between label, archive and disk."""
    sound_path = path if "/" in path else f"{label.stem}/{path}"
    sound = audio.find(sound_path, label)
    if sound is None:
        raise Unusable("audio missing", f"audioPath {path!r}")
    return sound


def _speaker(speaker_id: str, speaker: dict[str, Any], call: str) -> str:
    """The id where it can be a person's, so that an agent of many calls stays in one split.

    Otherwise call and role (``상담사1``, ``고객1``), which at least keeps a call together.
    """
    if _REAL_ID.fullmatch(speaker_id):
        return speaker_id
    return f"{call}-{text(speaker.get('type')) or speaker_id}"
