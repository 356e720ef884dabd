"""Checkpoints are sealed: encrypted, authenticated, dated, with keys that every replica has.

AES-256-GCM (NIST SP 800-38D). A key may seal only so many messages under random nonces (8.3), fewer
than a fleet seals in years; so each message has a key of its own, derived from the shared one and
16 random bytes (HKDF, RFC 5869).
"""

from __future__ import annotations

import base64
import binascii
import os
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import BaseModel, ConfigDict, Field, field_validator

from streamer.security.secret_file import SecretFile, SecretFileError, read_toml

log = structlog.get_logger()

MAGIC = b"VCC\x01"
"""Begins every sealed message: what it is, and the version of all that follows."""
KEY_BYTES = 32
LONGEST_ID = 64
CLOCK_SKEW = 30.0
"""Seconds by which the clock of the replica that sealed may be ahead of ours."""
_SALT, _NONCE, _TAG = 16, 12, 16
_FIXED = struct.Struct(f">{len(MAGIC)}sBQ")  # magic, length of the key's id, ms since 1970
OVERHEAD = _FIXED.size + LONGEST_ID + _SALT + _NONCE + _TAG
"""Bytes that sealing adds, at most."""


class KeysError(SecretFileError):
    """A file of keys that cannot be used."""


class SealError(ValueError):
    """Not a message that was sealed here or by a replica, or too old; says which."""


class Key(BaseModel):
    """One entry.

    Attributes:
        id: stands in clear in what it seals, 1 to 64 printable ASCII characters.
        secret: 32 random bytes, in base64 in the file.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    id: Annotated[str, Field(pattern=rf"^[\x21-\x7e]{{1,{LONGEST_ID}}}$")]
    secret: Annotated[bytes, Field(repr=False)]

    @field_validator("secret", mode="before")
    @classmethod
    def _decoded(cls, value: object) -> bytes:
        try:
            secret = base64.b64decode(str(value), validate=True)
        except binascii.Error as error:
            raise ValueError("must be base64") from error
        if len(secret) != KEY_BYTES:
            raise ValueError(f"must be {KEY_BYTES} bytes, is {len(secret)}")
        return secret


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    key: Annotated[list[Key], Field(min_length=1)]


def read_keys(path: Path) -> tuple[Key, ...]:
    """What is in the file; the first key seals, all of them open.

    Raises:
        KeysError: it cannot be read, or an entry is not valid; no value of it is repeated.
    """
    keys = tuple(read_toml(path, "checkpoint keys", _File, KeysError).key)
    if len({key.id for key in keys}) < len(keys):
        raise KeysError(f"checkpoint keys {path}: two keys have the same id")
    return keys


class Keys:
    """The keys in use, taken anew from their file when it changes.

    Raises:
        KeysError: the file cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self._file = SecretFile(
            path,
            read_keys,
            changed=lambda keys: log.info("checkpoint_keys_changed", keys=[key.id for key in keys]),
            kept=lambda reason: log.error("checkpoint_keys_reload_failed", reason=reason),
        )

    def refresh(self) -> None:
        """Take note of a changed file."""
        self._file.refresh()

    @property
    def first(self) -> Key:
        """The one that seals."""
        return self._file.entries[0]

    def find(self, key_id: bytes) -> Key | None:
        """The one of this id."""
        return next((key for key in self._file.entries if key.id.encode() == key_id), None)


@dataclass(frozen=True)
class Opened:
    """What was sealed.

    Attributes:
        content: as it was given.
        age: seconds since it was sealed, by the clocks of both replicas; not below 0.
    """

    content: bytes
    age: float


class Sealer:
    """Seals, and opens what it or another replica sealed.

    Args:
        keys: the same on every replica.
        max_age: seconds; what is older is not opened.
        now: seconds since 1970.
    """

    def __init__(self, keys: Keys, max_age: float, now: Callable[[], float] = time.time) -> None:
        self._keys = keys
        self._max_age = max_age
        self._now = now

    def seal(self, content: bytes) -> bytes:
        """At most :data:`OVERHEAD` bytes longer than ``content``."""
        key = self._keys.first
        name = key.id.encode()
        salt, nonce = os.urandom(_SALT), os.urandom(_NONCE)
        fixed = _FIXED.pack(MAGIC, len(name), round(self._now() * 1000))
        header = b"".join((fixed, name, salt, nonce))
        return header + _cipher(key, salt).encrypt(nonce, content, header)

    def open(self, sealed: bytes) -> Opened:
        """What was sealed.

        Raises:
            SealError: it is not whole, not authentic, too old, or its key is not known.
        """
        if len(sealed) < _FIXED.size or not sealed.startswith(MAGIC):
            raise SealError("it is no checkpoint of this version")
        _, length, issued = _FIXED.unpack_from(sealed)
        salt_at = _FIXED.size + length
        nonce_at = salt_at + _SALT
        end = nonce_at + _NONCE
        if len(sealed) < end + _TAG:
            raise SealError("it is not whole")
        key = self._keys.find(sealed[_FIXED.size : salt_at])
        if key is None:
            raise SealError("no key of this server opens it")
        try:
            content = _cipher(key, sealed[salt_at:nonce_at]).decrypt(
                sealed[nonce_at:end], sealed[end:], sealed[:end]
            )
        except InvalidTag:
            raise SealError("it is not authentic") from None
        age = self._now() - issued / 1000
        if age > self._max_age:
            raise SealError(f"it is {age:.0f} s old, at most {self._max_age:g} s are allowed")
        if age < -CLOCK_SKEW:
            raise SealError(f"it was sealed {-age:.0f} s from now: the servers' clocks differ")
        return Opened(content, max(age, 0.0))


def _cipher(key: Key, salt: bytes) -> AESGCM:
    derive = HKDF(SHA256(), KEY_BYTES, salt, b"voicecohort checkpoint")
    return AESGCM(derive.derive(key.secret))
