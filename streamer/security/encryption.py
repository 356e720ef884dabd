"""Encryption of checkpoints: sealed, authenticated and dated, with keys shared by all replicas.

AES-256-GCM (NIST SP 800-38D). The number of messages that one key may seal under random nonces is
limited (section 8.3), and a fleet would exceed it within years. Each message therefore has its own
key, derived from the shared key and 16 random bytes (HKDF, RFC 5869).
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
"""First bytes of a sealed message: type and format version."""
KEY_BYTES = 32
"""Size of a shared key."""
MAX_ID_LENGTH = 64
MAX_CLOCK_SKEW_SECONDS = 30.0
"""How far the clock of the sealing replica may be ahead."""
_SALT_BYTES, _NONCE_BYTES, _TAG_BYTES = 16, 12, 16
_FIXED = struct.Struct(f">{len(MAGIC)}sBQ")  # magic, length of the key's id, ms since 1970
OVERHEAD = _FIXED.size + MAX_ID_LENGTH + _SALT_BYTES + _NONCE_BYTES + _TAG_BYTES
"""Maximum number of bytes that sealing adds."""


class KeysError(SecretFileError):
    """The file of keys cannot be used."""


class SealError(ValueError):
    """A sealed message cannot be opened; the message gives the reason."""


class Key(BaseModel):
    """Entry of the file of keys.

    Attributes:
        id: 1 to 64 printable ASCII characters; sealed messages contain it in clear.
        secret: 32 random bytes, in base64 in the file.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    id: Annotated[str, Field(pattern=rf"^[\x21-\x7e]{{1,{MAX_ID_LENGTH}}}$")]
    secret: Annotated[bytes, Field(repr=False)]

    @field_validator("secret", mode="before")
    @classmethod
    def _decode(cls, value: object) -> bytes:
        try:
            secret = base64.b64decode(str(value), validate=True)
        except binascii.Error as error:
            raise ValueError("must be base64") from error
        if len(secret) != KEY_BYTES:
            raise ValueError(f"must be {KEY_BYTES} bytes, is {len(secret)}")
        return secret


class _KeyFile(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    key: Annotated[list[Key], Field(min_length=1)]


def read_keys(path: Path) -> tuple[Key, ...]:
    """Read a file of keys; the first key seals, every key opens.

    Raises:
        KeysError: the file cannot be read, or an entry is not valid; holds no value of it.
    """
    keys = tuple(read_toml(path, "checkpoint keys", _KeyFile, KeysError).key)
    if len({key.id for key in keys}) < len(keys):
        raise KeysError(f"checkpoint keys {path}: two keys have the same id")
    return keys


class Keys:
    """Keys in use, reloaded when their file changes.

    Raises:
        KeysError: the file cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self._file = SecretFile(
            path,
            read_keys,
            on_changed=lambda keys: log.info(
                "checkpoint_keys_changed", keys=[key.id for key in keys]
            ),
            on_reload_failed=lambda reason: log.error(
                "checkpoint_keys_reload_failed", reason=reason
            ),
        )

    def refresh(self) -> None:
        """Reload the file if it has changed."""
        self._file.refresh()

    @property
    def first(self) -> Key:
        """Key that seals."""
        return self._file.entries[0]

    def find(self, key_id: bytes) -> Key | None:
        """Return the key with this id, None if there is none."""
        return next((key for key in self._file.entries if key.id.encode() == key_id), None)


@dataclass(frozen=True)
class Opened:
    """Content of a sealed message.

    Attributes:
        content: the sealed bytes.
        age: seconds since the message was sealed, by the clocks of both replicas; at least 0.
    """

    content: bytes
    age: float


class Sealer:
    """Seals messages, and opens messages of this and other replicas.

    Args:
        keys: the same on every replica.
        max_age: seconds; older messages are refused.
        now: seconds since 1970.
    """

    def __init__(self, keys: Keys, max_age: float, now: Callable[[], float] = time.time) -> None:
        self._keys = keys
        self._max_age = max_age
        self._now = now

    def seal(self, content: bytes) -> bytes:
        """Encrypt ``content``; the result is at most :data:`OVERHEAD` bytes longer."""
        key = self._keys.first
        name = key.id.encode()
        salt, nonce = os.urandom(_SALT_BYTES), os.urandom(_NONCE_BYTES)
        fixed = _FIXED.pack(MAGIC, len(name), round(self._now() * 1000))
        header = b"".join((fixed, name, salt, nonce))
        return header + _cipher(key, salt).encrypt(nonce, content, header)

    def open(self, sealed: bytes) -> Opened:
        """Decrypt a sealed message.

        Raises:
            SealError: the message is incomplete, not authentic or too old, or its key is unknown.
        """
        if len(sealed) < _FIXED.size or not sealed.startswith(MAGIC):
            raise SealError("it is no checkpoint of this version")
        _, length, issued = _FIXED.unpack_from(sealed)
        salt_at = _FIXED.size + length
        nonce_at = salt_at + _SALT_BYTES
        end = nonce_at + _NONCE_BYTES
        if len(sealed) < end + _TAG_BYTES:
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
        if age < -MAX_CLOCK_SKEW_SECONDS:
            raise SealError(f"it was sealed {-age:.0f} s from now: the servers' clocks differ")
        return Opened(content, max(age, 0.0))


def _cipher(key: Key, salt: bytes) -> AESGCM:
    derive = HKDF(SHA256(), KEY_BYTES, salt, b"voicecohort checkpoint")
    return AESGCM(derive.derive(key.secret))
