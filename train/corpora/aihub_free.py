"""AI-Hub free conversation: adults (FCVG, data set 109) and elderly people (FCVE, 107).

16 kHz, one JSON per utterance. Labels and audio lie in different archives or folders
(``[라벨]``/``[원천]``, ``labeled_data``/``raw_data``), in subfolders of the same name::

    Training/[라벨]1.AI챗봇.zip!일반남여_일반통합05_M_1455308554-6_37_수도권_실내/..._20281.json
    Training/[원천]1.AI챗봇_1.zip!일반남여_일반통합05_M_1455308554-6_37_수도권_실내/..._20281.wav
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from train.corpora.faults import Unusable
from train.corpora.labelfile import read_json, seconds_of, section, split_of
from train.corpora.tree import AudioIndex, Entry, scan
from train.corpora.utterance import Rejected, Utterance
from train.corpora.values import age_of, gender_of, text

_NAMED = re.compile(r"_(?P<gender>[MF])_(?P<recorder>[^_]*)_(?P<age>\d+)_")
"""Gender, recorder and age within a file name."""


def read(folder: Path, corpus: str) -> Iterator[Utterance | Rejected]:
    """Utterances below ``folder``, which may be the data set or any part of it.

    Args:
        folder: with folders or zip files of labels and audio.
        corpus: ``aihub-fcvg`` or ``aihub-fcve``.

    Raises:
        ValueError: no such folder.
    """
    labels, audio, rejected = scan(folder, lambda entry: entry.suffix == ".json", depth=1)
    yield from rejected
    for label in labels:
        try:
            yield _utterance(label, audio, corpus)
        except Unusable as fault:
            yield fault.at(label.source)


def _utterance(label: Entry, audio: AudioIndex, corpus: str) -> Utterance:
    content = read_json(label)
    speech, recorder = section(content, "발화정보"), section(content, "녹음자정보")
    sound = _audio(label, text(speech.get("fileNm")), audio)
    named = _NAMED.search(label.stem)
    gender = _gender(recorder, named)
    age, band = age_of(text(recorder.get("age")) or (named["age"] if named else ""))
    return Utterance(
        id=sound.stem,
        corpus=corpus,
        speaker=_speaker(gender, age, band, recorder, named),
        gender=gender,
        source=sound.source,
        age=age,
        age_band=band,
        language="ko",
        licence="AI-Hub",
        split=split_of(sound),
        seconds=seconds_of(speech.get("recrdTime")),
    )


def _audio(label: Entry, file_name: str, audio: AudioIndex) -> Entry:
    """Audio of the label's own stem, else of the one the label states, which has typos."""
    sound = audio.find("/".join(label.parts), label)
    if sound is None and file_name:
        sound = audio.find(file_name, label)
    if sound is None:
        raise Unusable("audio missing", f"none named {label.stem}, fileNm {file_name!r}")
    if sound.suffix == ".pcm":
        raise Unusable("audio without header", f"{sound.name}: rate and width unknown")
    return sound


def _gender(recorder: dict[str, Any], named: re.Match[str] | None) -> str:
    stated = recorder.get("gender")
    if not named:
        return gender_of(stated)
    in_name = gender_of(named["gender"])
    if text(stated) and gender_of(stated) != in_name:
        raise Unusable("gender contradicts file name", f"gender {stated!r}, name {named[0]!r}")
    return in_name


def _speaker(
    gender: str,
    age: float | None,
    band: str,
    recorder: dict[str, Any],
    named: re.Match[str] | None,
) -> str:
    """Gender-age-id.

    Recorder ids are masked (``김XX``) or shared by several people (``1455308554-6`` counts on),
    so the id alone joins strangers; gender and age keep most of them apart. What is left joined
    costs variety, not honesty: joined speakers never stand in two splits.
    """
    recorder_id = text(recorder.get("recorderId")) or (named["recorder"] if named else "")
    if not recorder_id:
        raise Unusable("speaker missing", f"recorderId {recorder.get('recorderId')!r}")
    years = f"{age:g}" if age is not None else band or "unknown"
    return f"{gender}-{years}-{recorder_id}"
