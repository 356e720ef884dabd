"""Files named by a path or as ``ARCHIVE.zip!MEMBER``; archives are read in place, never unpacked.

Every process keeps its own open archives: a ZipFile inherited over a fork would share the parent's
file offset, and an unpickled one does not exist.
"""

from __future__ import annotations

import os
import re
import unicodedata
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path

_MEMBER = re.compile(r"(?P<archive>.+?\.zip)!(?P<member>.+)", re.IGNORECASE | re.DOTALL)
_UTF8_NAME = 0x800
"""General purpose flag of a zip entry (APPNOTE 4.4.4, bit 11): the name is UTF-8."""
OPEN_ARCHIVES = 16
"""Archives a process keeps open; the index of one with a million members takes about 0.5 GB."""


class UnreadableFileError(OSError):
    """A file or member that is there but cannot be read; the message gives the reason."""


class MissingFileError(UnreadableFileError):
    """No such file, or no such member."""


def split_source(source: str) -> tuple[str, str]:
    """``(archive, member)``; the member is empty for a plain path."""
    match = _MEMBER.fullmatch(source)
    return (match["archive"], match["member"]) if match else (source, "")


def composed(name: str) -> str:
    """The NFC form: macOS writes Hangul file names decomposed, labels and zips composed."""
    return unicodedata.normalize("NFC", name)


def _member_name(info: zipfile.ZipInfo) -> str:
    """Name of a member, also of those written by Korean Windows without the UTF-8 flag (cp949)."""
    name = info.filename
    if not info.flag_bits & _UTF8_NAME:
        try:
            raw = name.encode("cp437")  # what zipfile took it for; lossless back to the bytes
        except UnicodeEncodeError:  # zipfile found the name in a Unicode extra field
            raw = name.encode()
        for encoding in ("utf-8", "cp949", "cp437"):
            try:
                name = raw.decode(encoding)
                break
            except UnicodeDecodeError:
                continue
    return composed(name.replace("\\", "/"))


class Archive:
    """An open zip file.

    Args:
        path: of the zip file.

    Raises:
        MissingFileError: no such file.
        UnreadableFileError: not a zip file, or a broken one.
    """

    def __init__(self, path: str) -> None:
        try:
            self._zip = zipfile.ZipFile(path)
        except FileNotFoundError as error:
            raise MissingFileError(f"{path}: no such file") from error
        except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
            raise UnreadableFileError(f"{path}: {error}") from error
        self.members = {
            _member_name(info): info for info in self._zip.infolist() if not info.is_dir()
        }
        """Name (composed, with slashes) -> entry, files only."""

    def read(self, member: str) -> bytes:
        """Contents of ``member``; raises as the class does."""
        info = self.members.get(composed(member))
        if info is None:
            raise MissingFileError(f"no member {member!r}")
        try:
            return self._zip.read(info)
        # RuntimeError: encrypted; NotImplementedError (a RuntimeError): unknown compression
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError) as error:
            raise UnreadableFileError(f"member {member!r}: {error}") from error


@lru_cache(maxsize=OPEN_ARCHIVES)
def _opened(path: str, process: int) -> Archive:  # noqa: ARG001 - part of the key
    return Archive(path)


def archive(path: str | Path) -> Archive:
    """The archive at ``path``, opened once per process; raises as :class:`Archive`."""
    return _opened(str(path), os.getpid())


def read_bytes(source: str) -> bytes:
    """Contents of a path or an archive's member.

    Raises:
        MissingFileError: no such file or member.
        UnreadableFileError: broken archive, encrypted member, no permission.
    """
    path, member = split_source(source)
    if member:
        return archive(path).read(member)
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise MissingFileError("no such file") from error
    except OSError as error:
        raise UnreadableFileError(str(error)) from error
