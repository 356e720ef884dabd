"""Bearer tokens: who holds which, and what it allows. The file has their hashes, never a token.

SHA-256 is the right hash here: a token is 256 random bits, so there is nothing to guess. The slow
hashes for passwords (RFC 9106) make guessing dear, and would cost every call their price.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import structlog
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from streamer.security.secret_file import SecretFile, SecretFileError, read_toml

log = structlog.get_logger()

Scope = Literal["classify", "resume"]
"""``classify``: open calls. ``resume``: ask for checkpoints, and resume calls from them."""
SECRET_BYTES = 32
"""Of a token, random; written in base64url as RFC 6750 allows."""


class TokensError(SecretFileError):
    """A file of tokens that cannot be used."""


class Token(BaseModel):
    """One entry.

    Attributes:
        identity: whose it is, 1 to 128 printable ASCII characters; appears in the log.
        sha256: SHA-256 of the token in lower-case hexadecimal.
        scopes: what it allows.
        max_calls: calls at a time of this identity, instead of the server's setting.
        expires: from then on it is refused; None is never.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    identity: Annotated[str, Field(pattern=r"^[\x21-\x7e]{1,128}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    scopes: Annotated[list[Scope], Field(min_length=1)]
    max_calls: Annotated[int | None, Field(strict=True, ge=1)] = None
    expires: Annotated[AwareDatetime | None, Field(strict=True)] = None


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    token: Annotated[list[Token], Field(min_length=1)]


def digest(secret: str) -> str:
    """SHA-256 of a token, as the file has it."""
    return hashlib.sha256(secret.encode(errors="backslashreplace")).hexdigest()


def new_secret() -> str:
    """A token: 43 characters of base64url."""
    return secrets.token_urlsafe(SECRET_BYTES)


def read_tokens(path: Path) -> tuple[Token, ...]:
    """What is in the file.

    Raises:
        TokensError: it cannot be read, or an entry is not valid; no value of it is repeated.
    """
    tokens = tuple(read_toml(path, "tokens", _File, TokensError).token)
    seen: dict[str, int] = {}
    for number, token in enumerate(tokens, start=1):
        if token.sha256 in seen:
            raise TokensError(
                f"tokens {path}: token {number}: sha256: the same as of token {seen[token.sha256]}"
            )
        seen[token.sha256] = number
    return tokens


class Tokens:
    """The tokens in use, taken anew from their file when it changes.

    Args:
        path: the file.
        now: the time of day, with a time zone.

    Raises:
        TokensError: the file cannot be used.
    """

    def __init__(
        self,
        path: Path,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self._file = SecretFile(
            path,
            read_tokens,
            changed=lambda tokens: log.info("tokens_changed", tokens=len(tokens)),
            kept=lambda reason: log.error("tokens_reload_failed", reason=reason),
        )
        self._now = now

    def refresh(self) -> None:
        """Take note of a changed file."""
        self._file.refresh()

    def find(self, secret: str) -> Token | None:
        """The entry of a token, expired or not; None if there is none.

        Looks at every entry and compares hashes in constant time: how long it takes says nothing.
        """
        wanted = digest(secret)
        found = None
        for token in self._file.entries:
            if hmac.compare_digest(token.sha256, wanted):
                found = token
        return found

    def expired(self, token: Token) -> bool:
        """Whether its time is over."""
        return token.expires is not None and token.expires <= self._now()
