"""Prepared corpora and shards, read as one: a split is a list of shards, a shard a list of cuts.

A *prepared* folder (``train/prepare.py``) holds manifests and leaves the audio where it lies: each
split is one shard. A *sharded* folder (``train/shard.py``) holds everything in Lhotse's Shar
layout and may also be an address that smart_open understands (``s3://``, ``https://``).
"""

from __future__ import annotations

import json
import re
import tarfile
import wave
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from lhotse import AudioSource, CutSet, MonoCut
from lhotse.serialization import open_best
from lhotse.shar.readers.tar import iterate_tarfile_pairwise

from streamer.audio.codec import Samples
from train.corpora.archive import UnreadableFileError
from train.corpora.audio import read_audio
from train.corpora.utterance import Utterance

SPLITS = ("train", "dev", "test")
INDEX = "index.json"
"""Of a sharded folder: its shards and what is in them."""
_SAME_SECONDS = 1e-3
_SUFFIXES = re.compile(r"(~\d+)?(#\d+\.\d+)?$")


@dataclass
class Cell:
    """Utterances of one gender and age band.

    Attributes:
        clips: number of them.
        mass: sum over them of 1 / sqrt(clips of the same speaker).
    """

    clips: int = 0
    mass: float = 0.0


@dataclass(frozen=True)
class Shard:
    """Some cuts of a split.

    Attributes:
        cuts: JSON lines, one cut each.
        audio: tar archive with their audio in the same order; None: it lies where the cuts say.
        draw, draws: in shards of train.simulate_calls, which of how many draws of the same
            utterances.
    """

    cuts: str
    audio: str | None = None
    draw: int = 0
    draws: int = 1

    def read(self) -> Iterator[MonoCut]:
        """Cuts in order; audio of a tar archive comes along undecoded.

        Raises:
            ValueError: archive and manifest do not belong together.
        """
        cuts = CutSet.from_jsonl_lazy(self.cuts)
        if self.audio is None:
            yield from cuts
            return
        # lhotse's own reader leaves the archive open when it is not read to its end
        with (
            open_best(self.audio, "rb") as file,
            tarfile.open(fileobj=file, mode="r|*") as archive,
        ):
            for cut, ((data, name), _) in zip(cuts, iterate_tarfile_pairwise(archive), strict=True):
                if str(name.with_suffix("")) != cut.id:
                    raise ValueError(f"{self.audio}: {name} where {self.cuts} has {cut.id}")
                memory = AudioSource(type="memory", channels=[0], source=data)
                yield replace(cut, recording=replace(cut.recording, sources=[memory]))


@dataclass(frozen=True)
class _Chain:
    """Shards one after the other, as lhotse wants a lazy set."""

    shards: list[Shard]

    def __iter__(self) -> Iterator[MonoCut]:
        for shard in self.shards:
            yield from shard.read()


@dataclass
class Split:
    """One split of one or more folders.

    Attributes:
        shards: its parts.
        cells: by (gender, age band).
        licences: by corpus.
    """

    shards: list[Shard] = field(default_factory=list)
    cells: dict[tuple[str, str], Cell] = field(default_factory=dict)
    licences: dict[str, str] = field(default_factory=dict)

    @property
    def clips(self) -> int:
        """Utterances in all shards."""
        return sum(cell.clips for cell in self.cells.values())

    @property
    def utterances(self) -> int:
        """Utterances, all draws of the same one counted once; shards are taken as equally large."""
        return round(self.clips * sum(1 / shard.draws for shard in self.shards) / len(self.shards))

    def cuts(self) -> CutSet:
        """All of them, lazily, in order; may be gone through again and again."""
        return CutSet(_Chain(self.shards))

    def count(self, utterance: Utterance, speaker_clips: int) -> None:
        """Enter one utterance into cells and licences."""
        cell = self.cells.setdefault((utterance.gender, utterance.age_band), Cell())
        cell.clips += 1
        cell.mass += speaker_clips**-0.5
        self.licences[utterance.corpus] = utterance.licence

    def add(self, other: Split) -> None:
        """Join another folder's split to this one."""
        self.shards += other.shards
        self.licences |= other.licences
        for key, cell in other.cells.items():
            mine = self.cells.setdefault(key, Cell())
            mine.clips += cell.clips
            mine.mass += cell.mass

    def to_dict(self, folder: str) -> dict[str, Any]:
        """For an index beside the shards; :meth:`from_dict` reverses it."""
        return {
            "shards": [
                {
                    **asdict(s),
                    "cuts": _below(s.cuts, folder),
                    "audio": s.audio and _below(s.audio, folder),
                }
                for s in self.shards
            ],
            "cells": [
                {"gender": gender, "age_band": band, "clips": cell.clips, "mass": cell.mass}
                for (gender, band), cell in sorted(self.cells.items())
            ],
            "licences": self.licences,
        }

    @staticmethod
    def from_dict(plain: dict[str, Any], folder: str) -> Split:
        """Inverse of :meth:`to_dict`, for shards in ``folder``."""
        return Split(
            [
                Shard(
                    **{
                        **s,
                        "cuts": f"{folder}/{s['cuts']}",
                        "audio": s["audio"] and f"{folder}/{s['audio']}",
                    }
                )
                for s in plain["shards"]
            ],
            {(c["gender"], c["age_band"]): Cell(c["clips"], c["mass"]) for c in plain["cells"]},
            dict(plain["licences"]),
        )


def _below(path: str, folder: str) -> str:
    return path.removeprefix(folder).lstrip("/")


def _remote(folder: str) -> bool:
    return "://" in folder


def open_split(folders: str | Path | list[str | Path], split: str) -> Split:
    """A split of one or several prepared or sharded folders.

    Raises:
        ValueError: a folder is neither, or none of them has utterances in that split.
    """
    several = folders if isinstance(folders, list) else [folders]
    joined = Split()
    for folder in several:
        joined.add(_open(str(folder).rstrip("/"), split))
    if not joined.clips:
        raise ValueError(f"split {split!r}: no utterances in {', '.join(map(str, several))}")
    return joined


def _open(folder: str, split: str) -> Split:
    if _remote(folder) or (Path(folder) / INDEX).exists():
        with open_best(f"{folder}/{INDEX}") as file:
            index = json.load(file)
        return Split.from_dict(index["splits"].get(split, Split().to_dict("")), folder)
    cuts = Path(folder) / f"cuts.{split}.jsonl.gz"
    if not any((Path(folder) / f"cuts.{name}.jsonl.gz").exists() for name in SPLITS):
        raise ValueError(
            f"{folder}: neither cuts.*.jsonl.gz of train.prepare nor {INDEX} of shards"
        )
    found = Split()
    if cuts.exists():
        found.shards.append(Shard(str(cuts)))
        for cut in found.shards[0].read():
            found.count(utterance_of(cut), speaker_clips(cut))
    return found


def open_splits(folder: str | Path) -> dict[str, Split]:
    """Those splits of one folder that have utterances, by name; raises as :func:`open_split`."""
    every = {name: _open(str(folder).rstrip("/"), name) for name in SPLITS}
    return {name: split for name, split in every.items() if split.clips}


def open_data(folder: str | Path, split: str) -> CutSet:
    """All cuts of a split, lazily, in order."""
    return open_split(folder, split).cuts()


def speaker_clips(cut: MonoCut) -> int:
    """Clips of the cut's speaker in its split."""
    return int(cut.supervisions[0].custom["speaker_clips"])


def plain_id(cut_id: str) -> str:
    """Id that an utterance has in its corpus: ``corpus/utterance``.

    Args:
        cut_id: of a cut of any split or batch, perhaps one of train.simulate_calls's draws
            (``corpus/utterance~2``) or drawn by the sampler (``...#lap.copy``).
    """
    return _SUFFIXES.sub("", cut_id)


def utterance_of(cut: MonoCut) -> Utterance:
    """Labels of a cut; its id and speaker are those of the corpus."""
    supervision = cut.supervisions[0]
    custom = supervision.custom
    corpus = custom["corpus"]
    return Utterance(
        id=cut.id.removeprefix(f"{corpus}/"),
        corpus=corpus,
        speaker=supervision.speaker.removeprefix(f"{corpus}/"),
        gender=supervision.gender,
        source=str(cut.recording.sources[0].source) if _lies_apart(cut) else "",
        age=custom["age"],
        age_band=custom["age_band"] or "",
        language=supervision.language or "",
        licence=custom["licence"],
        line=custom["line"],
        split=custom["split"],
        seconds=cut.duration,
    )


def _lies_apart(cut: MonoCut) -> bool:
    return bool(cut.recording.sources[0].type == "file")


def audio_of(cut: MonoCut, rate: int) -> Samples:
    """Audio of a cut as int16 [n] at ``rate`` Hz, decoded here.

    Raises:
        soundfile.SoundFileError, OSError: it cannot be read.
    """
    source = cut.recording.sources[0]
    stored: str | BytesIO = source.source if source.type == "file" else BytesIO(source.source)
    if cut.start == 0 and abs(cut.duration - cut.recording.duration) < _SAME_SECONDS:
        plain = cut.recording.sampling_rate == rate and isinstance(stored, BytesIO)
        if plain and source.source.startswith(b"RIFF"):
            return _uncompressed(source.source)
        return read_audio(stored, rate)
    return read_audio(stored, rate, start_s=cut.start, duration_s=cut.duration)


def _uncompressed(data: bytes) -> Samples:
    """A WAV of train.simulate_calls: soundfile would take longer than all else that a cut costs."""
    try:
        with wave.open(BytesIO(data)) as file:
            return np.frombuffer(file.readframes(file.getnframes()), "<i2")
    except (wave.Error, EOFError) as error:
        raise UnreadableFileError(str(error)) from error
