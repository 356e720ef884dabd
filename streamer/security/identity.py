"""Identity of a caller: its token, else its certificate, else its address."""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, get_args

from streamer.errors import PermissionDenied, Unauthenticated
from streamer.security.tokens import Scope, Tokens

ALL_SCOPES: frozenset[str] = frozenset(get_args(Scope))
MAX_NAME_LENGTH = 256
"""Characters of a certificate's name that are used."""


@dataclass(frozen=True)
class Caller:
    """Client that opened a stream.

    Attributes:
        identity: name for limits and logs.
        scopes: allowed uses.
        max_calls: limit of concurrent calls in its token; None leaves it to the server's setting.
        proven: whether a token or a certificate proves the identity; else it is the address.
    """

    identity: str
    scopes: frozenset[str] = ALL_SCOPES
    max_calls: int | None = None
    proven: bool = True

    def require_scope(self, scope: Scope) -> None:
        """Raise PermissionDenied if the caller lacks a scope."""
        if scope not in self.scopes:
            raise PermissionDenied(scope)


class StreamContext(Protocol):
    """Properties of a stream's client (subset of ``grpc.aio.ServicerContext``)."""

    def peer(self) -> str:
        """Address, such as ``ipv4:192.0.2.1:40000``."""

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """Properties of the client's certificate; empty without one."""

    def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]] | None:
        """Headers, keys in lower case."""


class Identities:
    """Identifies callers.

    Args:
        tokens: accepted tokens; None requires none.
    """

    def __init__(self, tokens: Tokens | None = None) -> None:
        self._tokens = tokens

    def refresh(self) -> None:
        """Reload the tokens if their file has changed."""
        if self._tokens is not None:
            self._tokens.refresh()

    def caller(self, stream: StreamContext) -> Caller:
        """Identify the client of a stream.

        Raises:
            Unauthenticated: a token is required and is missing, unknown or expired.
            PermissionDenied: the token lacks the scope ``classify``.
        """
        if self._tokens is None:
            name = _certificate_name(stream.auth_context())
            return Caller(name or address(stream), proven=bool(name))
        token = self._tokens.find(_bearer(stream.invocation_metadata() or ()))
        if token is None:
            raise Unauthenticated("the token is not known here", "token_unknown")
        if self._tokens.expired(token):
            raise Unauthenticated("the token has expired", "token_expired")
        caller = Caller(token.identity, frozenset(token.scopes), token.max_calls)
        caller.require_scope("classify")
        return caller


def _bearer(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """Return the token of ``authorization: Bearer TOKEN`` (RFC 6750, 2.1)."""
    values = [value for key, value in metadata if key == "authorization"]
    if not values:
        raise Unauthenticated("missing; send `Bearer TOKEN`", "token_missing")
    scheme, _, token = str(values[0]).partition(" ")
    if len(values) > 1 or scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated("must be one `Bearer TOKEN`", "token_missing")
    return token.strip()


def _certificate_name(properties: Mapping[str, Iterable[bytes]]) -> str:
    """Return a certificate's first DNS name or URI, else its common name; empty without one."""
    names = {*properties.get("peer_dns", ()), *properties.get("peer_uri", ())}
    every = (
        *(n for n in properties.get("x509_subject_alternative_name", ()) if n in names),
        *properties.get("x509_common_name", ()),
    )
    return every[0].decode(errors="replace")[:MAX_NAME_LENGTH] if every else ""


def address(stream: StreamContext) -> str:
    """Return the IP address of the peer, without its port."""
    kind, _, rest = urllib.parse.unquote(stream.peer()).partition(":")
    return rest.rpartition(":")[0].strip("[]") if kind in {"ipv4", "ipv6"} else kind
