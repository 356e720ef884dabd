"""Headers of many audio files, read by several threads and remembered from run to run.

A corpus of millions of files takes hours; what is known lies in a journal, one JSON line a file,
appended as it comes. Failures are not remembered: the next run tries them again, since the usual
reason to run again is that missing files have arrived.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from train.corpora.archive import MissingFileError
from train.corpora.audio import AudioInfo, info
from train.corpora.faults import Unusable

_BATCH = 512
"""Files between two writes to the journal; so many are read again after a kill."""


class Journal:
    """Headers that earlier runs have read.

    Args:
        path: of the journal; made if absent.

    Raises:
        ValueError: a line that is none of ours; only the last may be cut short, by a kill.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.known: dict[str, AudioInfo] = {}
        """Source -> its header."""
        if path.exists():
            self._read()

    def _read(self) -> None:
        end = 0
        with self._path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    break
                try:
                    source, *header = json.loads(line)
                    self.known[source] = AudioInfo(*map(int, header))
                except (ValueError, TypeError) as error:
                    raise ValueError(f"{self._path} line {number}: {error}; delete it") from error
                end += len(line)
        with self._path.open("r+b") as file:
            file.truncate(end)

    def append(self, found: dict[str, AudioInfo]) -> None:
        """Remember some headers for good."""
        with self._path.open("a", encoding="utf-8") as file:
            for source, header in found.items():
                file.write(json.dumps([source, *header], ensure_ascii=False) + "\n")
        self.known |= found


def read_header(source: str) -> AudioInfo:
    """Header of one file.

    Raises:
        Unusable: missing, unreadable, or without a sample.
    """
    try:
        header = info(source)
    except MissingFileError as error:
        raise Unusable("audio missing", str(error)) from error
    except OSError as error:
        raise Unusable("audio unreadable", str(error)) from error
    if header.frames <= 0:
        raise Unusable("audio empty", f"{header.frames} frames")
    return header


def _attempt(source: str) -> AudioInfo | Unusable:
    try:
        return read_header(source)
    except Unusable as fault:
        return fault


def read_headers(
    sources: Sequence[str], journal: Journal, jobs: int
) -> Iterator[tuple[str, AudioInfo | Unusable]]:
    """Header of every source or what is wrong with it: the known ones first, then in order.

    Args:
        sources: paths and ``ARCHIVE.zip!MEMBER``; best sorted, so that archives come one by one.
        journal: what earlier runs know; extended.
        jobs: threads; decoders and disks work outside Python's lock.
    """
    for source in sources:
        if source in journal.known:
            yield source, journal.known[source]
    unknown = (source for source in sources if source not in journal.known)
    with ThreadPoolExecutor(jobs) as pool:
        while batch := list(islice(unknown, _BATCH)):
            results = list(pool.map(_attempt, batch))
            found = dict(zip(batch, results, strict=True))
            journal.append({s: r for s, r in found.items() if isinstance(r, AudioInfo)})
            yield from found.items()
