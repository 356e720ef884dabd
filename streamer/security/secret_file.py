"""Files of secrets: TOML, validated entry by entry, reloaded when they change.

If a new file is not valid, the previous entries stay in use, so that a mistake of the operator
does not lock callers out. Replace a file instead of writing in place: a partly written file may be
read.
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
    """A file cannot be used; the message is one line with file, entry and field, without values."""


def read_toml(
    path: Path, what: str, model: type[Content], failure: type[SecretFileError]
) -> Content:
    """Read and validate a TOML file.

    Args:
        path: the file.
        what: content of the file, for the error message.
        model: schema of the file; must hide its input in errors.
        failure: class of the error to raise.

    Raises:
        SecretFileError: ``failure``; the file cannot be read, or an entry is not valid.
    """
    try:
        return model.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise failure(f"{what} {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise failure(f"{what} {path}: not UTF-8 at byte {error.start}") from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        raise failure(f"{what} {path}: {_field_name(first['loc'])}: {first['msg']}") from None
    except (ValueError, RecursionError) as error:  # tomllib raises both
        raise failure(f"{what} {path}: not TOML: {error}") from None


def _field_name(location: tuple[int | str, ...]) -> str:
    """Return ``token 2: scopes.0`` for ``("token", 1, "scopes", 0)``."""
    if len(location) > 1 and isinstance(location[1], int):
        field = ".".join(str(part) for part in location[2:])
        return f"{location[0]} {location[1] + 1}" + (f": {field}" if field else "")
    return ".".join(str(part) for part in location)


class SecretFile(Generic[Entry]):
    """Entries in use. Not thread-safe.

    Args:
        path: the file.
        read: returns the entries, or raises SecretFileError.
        on_changed: receives new entries, to log them without secrets.
        on_reload_failed: receives the reason why a changed file cannot be used.

    Raises:
        SecretFileError: the file cannot be used.
    """

    def __init__(
        self,
        path: Path,
        read: Callable[[Path], tuple[Entry, ...]],
        on_changed: Callable[[tuple[Entry, ...]], None],
        on_reload_failed: Callable[[str], None],
    ) -> None:
        self._path = path
        self._read = read
        self._on_changed = on_changed
        self._on_reload_failed = on_reload_failed
        self._stamp = self._read_stamp()
        self._entries = read(path)

    def _read_stamp(self) -> tuple[int, int, int] | None:
        """Return a value that changes with the file; None if there is no file."""
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_ino, stat.st_mtime_ns, stat.st_size

    def refresh(self) -> None:
        """Reload the file if it has changed; costs one ``stat``."""
        stamp = self._read_stamp()
        if stamp == self._stamp:
            return
        self._stamp = stamp  # also of a broken file: it is logged once
        try:
            self._entries = self._read(self._path)
        except SecretFileError as error:
            self._on_reload_failed(str(error))
        else:
            self._on_changed(self._entries)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Current entries, after a reload if the file has changed."""
        self.refresh()
        return self._entries
