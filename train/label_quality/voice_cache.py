"""Voice features of a whole split, computed once: kept in parts, so a stopped run goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from lhotse import MonoCut
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from train.data.dataset import audio_of
from train.label_quality.voice import FEATURES, RATE, VERSION, describe

PART = 256
"""Cuts of one file of the cache: about a second of work is lost when a run is stopped."""


def _key(cuts: Sequence[MonoCut]) -> str:
    digest = hashlib.sha256(json.dumps([VERSION, FEATURES]).encode())
    for cut in cuts:
        source = cut.recording.sources[0]
        place = str(source.source) if source.type == "file" else ""
        digest.update(json.dumps([cut.id, cut.start, cut.duration, place]).encode())
    return digest.hexdigest()[:16]


def _features_of(cut: MonoCut) -> NDArray[np.float32]:
    try:
        return describe(audio_of(cut, RATE))
    except (OSError, soundfile.SoundFileError, ValueError) as error:
        raise ValueError(f"{cut.id}: its audio cannot be used: {error}") from error


def voices(
    cuts: Sequence[MonoCut],
    cache: Path,
    *,
    jobs: int = 1,
    done: Callable[[int], Any] = lambda _: None,
) -> NDArray[np.float32]:
    """Features of every cut.

    Args:
        cuts: of a split; the cache is theirs in this order, by id and place of the audio.
        cache: folder of caches; made if absent.
        jobs: threads. Decoding and FFTs leave Python's lock, so threads are enough.
        done: called with the number of cuts after each part.

    Returns:
        float32 [n, len(FEATURES)]; a row of NaN where too little is voiced.

    Raises:
        ValueError: audio cannot be decoded; names the cut.
    """
    if not cuts:
        return np.empty((0, len(FEATURES)), np.float32)
    folder = cache / f"voices-{_key(cuts)}"
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    # BLAS threads that wait for each other make small matrices three times slower.
    with threadpool_limits(1), ThreadPoolExecutor(jobs) as pool:
        for start in range(0, len(cuts), PART):
            chunk = cuts[start : start + PART]
            path = folder / f"{start // PART:05d}.npy"
            if not path.exists():
                rows = np.stack(list(pool.map(_features_of, chunk)))
                partial = path.with_suffix(".partial")
                with partial.open("wb") as file:
                    np.save(file, rows)
                partial.replace(path)
            parts.append(np.load(path))
            done(len(chunk))
    return np.concatenate(parts)
