"""Labelled utterances from a manifest, decoded once into a memory-mapped 8 kHz cache.

Manifest: tab-separated with a header; columns ``id corpus speaker gender age age_band language
seconds split licence path``. ``path`` is relative to the manifest; an empty ``age_band`` is
unknown age.
"""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray
from rich.progress import track

from streamer.codec import SAMPLE_RATE, Samples, to_int16

COLUMNS = ("id", "corpus", "speaker", "gender", "age_band", "split", "path")


@dataclass(frozen=True)
class Utterance:
    """One row of a manifest; ``age_band`` is empty where unknown."""

    id: str
    corpus: str
    speaker: str
    gender: str
    age_band: str
    split: str
    path: Path
    language: str = ""
    licence: str = ""


def read_manifest(manifest: Path, split: str | None = None) -> list[Utterance]:
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
        absent = [column for column in COLUMNS if row[column] is None]
        if absent:
            raise ValueError(f"{manifest} line {reader.line_num}: no {', '.join(absent)}")
        rows.append(
            Utterance(
                id=row["id"],
                corpus=row["corpus"],
                speaker=row["speaker"],
                gender=row["gender"],
                age_band=row["age_band"],
                split=row["split"],
                path=manifest.parent / row["path"],
                language=row.get("language") or "",
                licence=row.get("licence") or "",
            )
        )
    chosen = [row for row in rows if split is None or row.split == split]
    if not chosen:
        splits = sorted({row.split for row in rows})
        raise ValueError(f"{manifest}: no utterance in split {split!r}; it has {splits}")
    return chosen


def read_audio(path: Path, rate: int = SAMPLE_RATE) -> Samples:
    """First channel of any soundfile-readable file as int16 at ``rate`` Hz."""
    samples, source_rate = soundfile.read(path, dtype="float32", always_2d=True)
    resampled = soxr.resample(samples[:, 0], source_rate, rate, quality="HQ")
    return to_int16(resampled * 32768)


class DecodedCorpus:
    """Utterances with their audio in one memory-mapped int16 file.

    Opus decodes slower than a student trains, so it happens once per split and manifest.

    Args:
        utterances: in the order of the cache.
        folder: where the cache lies; made if absent. Never inside the repository's tracked tree.
    """

    def __init__(self, utterances: list[Utterance], folder: Path) -> None:
        self.utterances = utterances
        key = hashlib.sha256("\n".join(str(u.path) for u in utterances).encode()).hexdigest()[:16]
        audio, index = folder / f"{key}.i16", folder / f"{key}.npy"
        if not index.exists():
            folder.mkdir(parents=True, exist_ok=True)
            ends, total = [], 0
            with audio.open("wb") as file:
                for utterance in track(utterances, "decoding"):
                    samples = read_audio(utterance.path)
                    file.write(samples.tobytes())
                    total += len(samples)
                    ends.append(total)
            np.save(index, np.array(ends, np.int64))  # last: a cut-off decoding starts again
        self._ends: NDArray[np.int64] = np.load(index)
        self._audio = np.memmap(audio, np.int16, "r")

    def __len__(self) -> int:
        return len(self.utterances)

    def samples(self, index: int) -> Samples:
        """Audio of one utterance, int16 [n] at 8 kHz."""
        start = self._ends[index - 1] if index else 0
        return np.array(self._audio[start : self._ends[index]])
