"""Files of secrets: TOML, validated entry by entry, taken anew when they change.

What cannot be used leaves the entries as they were: a slip of the operator's locks nobody out. A
file should be replaced rather than written in place, or what is half-written may be read.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel, ValidationError

Content = TypeVar("Content", bound=BaseModel)
Entry = TypeVar("Entry")


class SecretFileError(RuntimeError):
    """A file that cannot be used; one line, names file, entry and field, and repeats no value."""


def read_toml(
    path: Path, what: str, model: type[Content], failure: type[SecretFileError]
) -> Content:
    """What is in a file.

    Args:
        path: of the file.
        what: it holds, for the error.
        model: its tables; one that hides its input in errors.
        failure: to raise.

    Raises:
        SecretFileError: ``failure``; it cannot be read, or an entry is not valid.
    """
    try:
        return model.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise failure(f"{what} {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise failure(f"{what} {path}: not UTF-8 at byte {error.start}") from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        raise failure(f"{what} {path}: {_place(first['loc'])}: {first['msg']}") from None
    except (ValueError, RecursionError) as error:  # tomllib raises both, not only its own
        raise failure(f"{what} {path}: no TOML: {error}") from None


def _place(where: tuple[int | str, ...]) -> str:
    """``("token", 1, "scopes", 0)`` is ``token 2: scopes.0``."""
    if len(where) > 1 and isinstance(where[1], int):
        field = ".".join(str(part) for part in where[2:])
        return f"{where[0]} {where[1] + 1}" + (f": {field}" if field else "")
    return ".".join(str(part) for part in where)


class SecretFile(Generic[Entry]):
    """The entries in use. To be used from one thread.

    Args:
        path: of the file.
        read: gives the entries, or raises SecretFileError.
        changed: told of new entries, to log what may be said of them.
        kept: told why a new file cannot be used.

    Raises:
        SecretFileError: the file cannot be used.
    """

    def __init__(
        self,
        path: Path,
        read: Callable[[Path], tuple[Entry, ...]],
        changed: Callable[[tuple[Entry, ...]], None],
        kept: Callable[[str], None],
    ) -> None:
        self._path = path
        self._read = read
        self._changed = changed
        self._kept = kept
        self._stamp = self._look()
        self._entries = read(path)

    def _look(self) -> tuple[int, int, int] | None:
        """Changes when the file is written, replaced or linked elsewhere; None if there is none."""
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_ino, stat.st_mtime_ns, stat.st_size

    def refresh(self) -> None:
        """Read the file again if it has changed. Costs a look at its inode."""
        stamp = self._look()
        if stamp == self._stamp:
            return
        self._stamp = stamp  # also of a broken file: it is logged once
        try:
            self._entries = self._read(self._path)
        except SecretFileError as error:
            self._kept(str(error))
        else:
            self._changed(self._entries)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """As they are now."""
        self.refresh()
        return self._entries
