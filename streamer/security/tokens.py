"""Bearer tokens: identity and scopes of each. The file holds hashes, never a token.

SHA-256 suffices: a token is 256 random bits and cannot be guessed. Slow password hashes (RFC 9106)
protect guessable secrets, and would add their cost to every call.
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
"""``classify``: open calls. ``resume``: request checkpoints, and resume calls from them."""
SECRET_BYTES = 32
"""Random bytes of a token, written in base64url (RFC 6750)."""


class TokensError(SecretFileError):
    """The file of tokens cannot be used."""


class Token(BaseModel):
    """Entry of the file of tokens.

    Attributes:
        identity: owner, 1 to 128 printable ASCII characters; appears in the log.
        sha256: SHA-256 of the token in lower-case hexadecimal.
        scopes: allowed uses.
        max_calls: concurrent calls of this identity, instead of the server's setting.
        expires: time from which the token is refused; None for never.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    identity: Annotated[str, Field(pattern=r"^[\x21-\x7e]{1,128}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    scopes: Annotated[list[Scope], Field(min_length=1)]
    max_calls: Annotated[int | None, Field(strict=True, ge=1)] = None
    expires: Annotated[AwareDatetime | None, Field(strict=True)] = None


class _TokenFile(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    token: Annotated[list[Token], Field(min_length=1)]


def digest(secret: str) -> str:
    """Return the SHA-256 of a token in hexadecimal, as in the file."""
    return hashlib.sha256(secret.encode(errors="backslashreplace")).hexdigest()


def new_secret() -> str:
    """Return a new token: 43 characters of base64url."""
    return secrets.token_urlsafe(SECRET_BYTES)


def read_tokens(path: Path) -> tuple[Token, ...]:
    """Read a file of tokens.

    Raises:
        TokensError: the file cannot be read, or an entry is not valid; holds no value of it.
    """
    tokens = tuple(read_toml(path, "tokens", _TokenFile, TokensError).token)
    seen: dict[str, int] = {}
    for number, token in enumerate(tokens, start=1):
        if token.sha256 in seen:
            raise TokensError(
                f"tokens {path}: token {number}: sha256: the same as of token {seen[token.sha256]}"
            )
        seen[token.sha256] = number
    return tokens


class Tokens:
    """Tokens in use, reloaded when their file changes.

    Args:
        path: the file.
        now: clock, with a time zone.

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
            on_changed=lambda tokens: log.info("tokens_changed", tokens=len(tokens)),
            on_reload_failed=lambda reason: log.error("tokens_reload_failed", reason=reason),
        )
        self._now = now

    def refresh(self) -> None:
        """Reload the file if it has changed."""
        self._file.refresh()

    def find(self, secret: str) -> Token | None:
        """Return the entry of a token, expired or not; None if there is none.

        Compares the hash with every entry in constant time, so that timing reveals nothing.
        """
        sha256 = digest(secret)
        found = None
        for token in self._file.entries:
            if hmac.compare_digest(token.sha256, sha256):
                found = token
        return found

    def expired(self, token: Token) -> bool:
        """Return whether the token has expired."""
        return token.expires is not None and token.expires <= self._now()
