"""A corpus on disk: folders and zip files walked alike, and audio found for its labels.

A zip file counts as a folder of its own name, so a corpus may lie there packed, unpacked, or
half and half. Zip files inside zip files are not entered.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from train.corpora.archive import UnreadableFileError, archive, composed
from train.corpora.faults import Unusable
from train.corpora.utterance import Rejected

AUDIO = (".wav", ".wavp", ".flac", ".mp3", ".ogg", ".opus", ".pcm")
"""Suffixes taken for audio, in any case; ``.wavp`` is a typo of AI-Hub's."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of the tree.

    Attributes:
        source: what opens it: a path, or ``ARCHIVE.zip!MEMBER``.
        name: composed path within the tree, with slashes; an archive is one of its folders.
    """

    source: str
    name: str

    @property
    def parts(self) -> tuple[str, ...]:
        """Folders and file name."""
        return tuple(self.name.split("/"))

    @property
    def stem(self) -> str:
        """File name without suffix."""
        return _stem(self.parts[-1])

    @property
    def suffix(self) -> str:
        """Suffix in lower case, with the dot."""
        return os.path.splitext(self.name)[1].lower()  # noqa: PTH122 - a member is no path


def _stem(file: str) -> str:
    return os.path.splitext(file)[0]  # noqa: PTH122


def walk(folder: Path) -> Iterator[Entry | Rejected]:
    """Every file below ``folder`` in a fixed order; hidden ones (``._0001.wav``) are passed over.

    Raises:
        ValueError: ``folder`` is no folder.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    seen: set[tuple[int, int]] = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        status = Path(root).stat()
        if (status.st_dev, status.st_ino) in seen:  # a link back to where we come from
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not _hidden(name))
        below = Path(root).relative_to(folder).as_posix()
        prefix = "" if below == "." else f"{composed(below)}/"
        for file in sorted(name for name in files if not _hidden(name)):
            path = str(Path(root, file))
            if file.lower().endswith(".zip"):
                yield from _members(path, f"{prefix}{composed(file)}")
            elif ".zip.part" in file.lower():  # aihubshell's pieces, to be joined with cat
                yield Rejected(path, "part of an archive, not joined")
            else:
                yield Entry(path, f"{prefix}{composed(file)}")


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _members(path: str, name: str) -> Iterator[Entry | Rejected]:
    try:
        members = sorted(archive(path).members)
    except UnreadableFileError as error:
        yield Rejected(path, "archive unreadable", str(error))
        return
    for member in members:
        if not any(_hidden(part) for part in member.split("/")):
            yield Entry(f"{path}!{member}", f"{name}/{member}")


class AudioIndex:
    """Audio files by the end of their path, for labels that lie in another folder or archive.

    Args:
        depth: components of the path that identify a file: 1 where file names are unique,
            2 where only folder and name together are.
    """

    def __init__(self, depth: int = 1) -> None:
        self._depth = depth
        self._entries: defaultdict[tuple[str, ...], list[Entry]] = defaultdict(list)

    def add(self, entry: Entry) -> None:
        """Take in one audio file."""
        self._entries[self._key(entry.parts)].append(entry)

    def _key(self, parts: tuple[str, ...]) -> tuple[str, ...]:
        return (*parts[-self._depth : -1], _stem(parts[-1]).casefold())

    def find(self, path_in_label: str, label: Entry) -> Entry | None:
        """The audio of one label; None if there is none.

        Of several with the same end, the one wins whose path shares most components with
        ``path_in_label`` counted from the end, then most with the label's path from either end.

        Args:
            path_in_label: path in the label, with slashes; suffix and leading folders may be wrong.
            label: file the label comes from.

        Raises:
            Unusable: several fit equally well.
        """
        path = tuple(composed(path_in_label).replace("\\", "/").split("/"))
        found = self._entries.get(self._key(path), [])
        if len(found) <= 1:
            return found[0] if found else None
        origin = label.parts[:-1]

        def closeness(entry: Entry) -> tuple[int, int, int]:
            folders = entry.parts[:-1]
            return (
                _common(folders[::-1], path[-2::-1]),
                _common(folders[::-1], origin[::-1]),
                _common(folders, origin),
            )

        best = max(closeness(entry) for entry in found)
        closest = [entry for entry in found if closeness(entry) == best]
        if len(closest) > 1:
            raise Unusable(
                "audio ambiguous", f"{path_in_label} fits {closest[0].name}, {closest[1].name}"
            )
        return closest[0]


def _common(one: Iterable[str], other: Iterable[str]) -> int:
    """How many leading items agree."""
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count


def scan(
    folder: Path, is_label: Callable[[Entry], bool], depth: int
) -> tuple[list[Entry], AudioIndex, list[Rejected]]:
    """Labels, audio and unreadable archives of a tree, in one walk; raises as :func:`walk`."""
    labels, audio, rejected = [], AudioIndex(depth), []
    for entry in walk(folder):
        if isinstance(entry, Rejected):
            rejected.append(entry)
        elif entry.suffix in AUDIO:
            audio.add(entry)
        elif is_label(entry):
            labels.append(entry)
    return labels, audio, rejected
