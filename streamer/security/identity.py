"""Who calls: by its token, else by its certificate, else by its address."""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, get_args

from streamer.errors import PermissionDenied, Unauthenticated
from streamer.security.tokens import Scope, Tokens

ALL_SCOPES: frozenset[str] = frozenset(get_args(Scope))
LONGEST_NAME = 256
"""Characters of a certificate's name that are kept."""


@dataclass(frozen=True)
class Caller:
    """Who opened a stream.

    Attributes:
        identity: its name, to count and to log by.
        scopes: what it may do.
        max_calls: calls at a time that its token grants; None leaves it to the server's setting.
        proven: by a token or a certificate; otherwise its address is all that is known.
    """

    identity: str
    scopes: frozenset[str] = ALL_SCOPES
    max_calls: int | None = None
    proven: bool = True

    def require_scope(self, scope: Scope) -> None:
        """Raises PermissionDenied unless it may."""
        if scope not in self.scopes:
            raise PermissionDenied(scope)


class Opener(Protocol):
    """What gRPC knows of who opened a stream (``grpc.aio.ServicerContext``)."""

    def peer(self) -> str:
        """Address, such as ``ipv4:192.0.2.1:40000``."""

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """Properties of the client's certificate, if it showed one."""

    def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]] | None:
        """Headers, keys in lower case."""


class Identities:
    """Tells who calls.

    Args:
        tokens: one of them must be shown; None asks for none.
    """

    def __init__(self, tokens: Tokens | None = None) -> None:
        self._tokens = tokens

    def refresh(self) -> None:
        """Take the tokens anew if their file has changed."""
        if self._tokens is not None:
            self._tokens.refresh()

    def caller(self, stream: Opener) -> Caller:
        """Who opened a stream, and may open calls.

        Raises:
            Unauthenticated: a token is asked for and none, an unknown or an expired one came.
            PermissionDenied: its token is not for opening calls.
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
    """The token of ``authorization: Bearer TOKEN`` (RFC 6750, 2.1)."""
    values = [value for key, value in metadata if key == "authorization"]
    if not values:
        raise Unauthenticated("missing; send `Bearer TOKEN`", "token_missing")
    scheme, _, token = str(values[0]).partition(" ")
    if len(values) > 1 or scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated("must be one `Bearer TOKEN`", "token_missing")
    return token.strip()


def _certificate_name(properties: Mapping[str, Iterable[bytes]]) -> str:
    """First DNS name or URI of a certificate, else its common name; empty without a certificate."""
    names = {*properties.get("peer_dns", ()), *properties.get("peer_uri", ())}
    every = (
        *(n for n in properties.get("x509_subject_alternative_name", ()) if n in names),
        *properties.get("x509_common_name", ()),
    )
    return every[0].decode(errors="replace")[:LONGEST_NAME] if every else ""


def address(stream: Opener) -> str:
    """IP address of the peer, without its port."""
    kind, _, rest = urllib.parse.unquote(stream.peer()).partition(":")
    return rest.rpartition(":")[0].strip("[]") if kind in {"ipv4", "ipv6"} else kind
