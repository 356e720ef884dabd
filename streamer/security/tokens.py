"""Bearer tokens: who holds which, and what it allows. The file has their hashes, never a token.

SHA-256 is the right hash here: a token is 256 random bits, so there is nothing to guess. The slow
hashes for passwords (RFC 9106) make guessing dear, and would cost every call their price.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import secrets
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import structlog
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

log = structlog.get_logger()

Scope = Literal["classify", "resume"]
"""``classify``: open calls. ``resume``: ask for checkpoints, and resume calls from them."""
SECRET_BYTES = 32
"""Of a token, random; written in base64url as RFC 6750 allows."""


class TokensError(RuntimeError):
    """A file of tokens that cannot be used; one line, names file, entry and field."""


class Token(BaseModel):
    """One entry.

    Attributes:
        identity: whose it is, 1 to 128 printable ASCII characters; appears in the log.
        sha256: SHA-256 of the token in lower-case hexadecimal.
        scopes: what it allows.
        max_calls: calls at a time of this identity, instead of the server's setting.
        expires: from then on it is refused; None is never.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    identity: Annotated[str, Field(pattern=r"^[\x21-\x7e]{1,128}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    scopes: Annotated[list[Scope], Field(min_length=1)]
    max_calls: Annotated[int | None, Field(strict=True, ge=1)] = None
    expires: Annotated[AwareDatetime | None, Field(strict=True)] = None


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

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
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        tokens = tuple(_File.model_validate(content).token)
    except OSError as error:
        raise TokensError(f"tokens {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TokensError(f"tokens {path}: not UTF-8 at byte {error.start}") from error
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise TokensError(f"tokens {path}: {_place(first['loc'])}: {first['msg']}") from None
    except (ValueError, RecursionError) as error:  # tomllib raises both, not only its own
        raise TokensError(f"tokens {path}: no TOML: {error}") from None
    seen: dict[str, int] = {}
    for number, token in enumerate(tokens, start=1):
        if token.sha256 in seen:
            raise TokensError(
                f"tokens {path}: token {number}: sha256: the same as of token {seen[token.sha256]}"
            )
        seen[token.sha256] = number
    return tokens


def _place(where: tuple[int | str, ...]) -> str:
    """``("token", 1, "scopes", 0)`` is ``token 2: scopes.0``."""
    if len(where) > 1 and isinstance(where[1], int):
        field = ".".join(str(part) for part in where[2:])
        return f"token {where[1] + 1}" + (f": {field}" if field else "")
    return ".".join(str(part) for part in where)


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
        self._path = path
        self._now = now
        self._stamp = self._look()
        self._tokens = read_tokens(path)

    def _look(self) -> tuple[int, int, int] | None:
        """Changes when the file is written, replaced or linked elsewhere; None if there is none."""
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_ino, stat.st_mtime_ns, stat.st_size

    def refresh(self) -> None:
        """Read the file again if it has changed; what cannot be used leaves the tokens as they are.

        Costs a look at the file's inode. To be called from one thread.
        """
        stamp = self._look()
        if stamp == self._stamp:
            return
        self._stamp = stamp  # also of a broken file: it is logged once
        try:
            self._tokens = read_tokens(self._path)
        except TokensError as error:
            log.error("tokens_kept", reason=str(error))  # noqa: TRY400 - no traceback needed
        else:
            log.info("tokens_changed", tokens=len(self._tokens))

    def find(self, secret: str) -> Token | None:
        """The entry of a token, expired or not; None if there is none.

        Looks at every entry and compares hashes in constant time: how long it takes says nothing.
        """
        self.refresh()
        wanted = digest(secret)
        found = None
        for token in self._tokens:
            if hmac.compare_digest(token.sha256, wanted):
                found = token
        return found

    def expired(self, token: Token) -> bool:
        """Whether its time is over."""
        return token.expires is not None and token.expires <= self._now()
