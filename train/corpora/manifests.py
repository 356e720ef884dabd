"""Prepared clips as lhotse manifests."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lhotse import MonoCut, Recording, SupervisionSegment
from lhotse.audio import AudioSource

from train.corpora.clip import Clip


def recording_of(clip: Clip) -> Recording:
    """The whole file; its source is a path or ``ARCHIVE.zip!MEMBER``."""
    channels = list(range(clip.audio.channels))
    return Recording(
        id=clip.id,
        sources=[AudioSource(type="file", channels=channels, source=clip.utterance.source)],
        sampling_rate=clip.audio.rate,
        num_samples=clip.audio.frames,
        duration=clip.seconds,
    )


def supervision_of(clip: Clip) -> SupervisionSegment:
    """The labels; what lhotse has no field for stands in ``custom``."""
    utterance = clip.utterance
    return SupervisionSegment(
        id=clip.id,
        recording_id=clip.id,
        start=0,
        duration=clip.seconds,
        channel=0,
        language=utterance.language or None,
        speaker=f"{utterance.corpus}/{utterance.speaker}",
        gender=utterance.gender,
        custom={
            "corpus": utterance.corpus,
            "licence": utterance.licence,
            "age": utterance.age,
            "age_band": utterance.age_band,
            "line": utterance.line,
            "split": clip.split,
            "speaker_clips": clip.speaker_clips,
        },
    )


def cut_of(clip: Clip) -> MonoCut:
    """The first channel, which is the one that is labelled."""
    return MonoCut(
        id=clip.id,
        start=0,
        duration=clip.seconds,
        channel=0,
        supervisions=[supervision_of(clip)],
        recording=recording_of(clip),
    )


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` in one step, so that a kill leaves the old file or the new one."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Replace ``path`` in one step by one JSON object a line, gzipped if it ends in ``.gz``.

    The same rows give the same bytes: no time and no name in the gzip header.
    """
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as raw:
        if path.suffix == ".gz":
            with gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0) as packed:
                _write_lines(packed, rows)
        else:
            _write_lines(raw, rows)
    partial.replace(path)


def _write_lines(file: io.BufferedIOBase, rows: Iterable[dict[str, Any]]) -> None:
    for row in rows:
        file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
