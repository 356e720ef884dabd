"""Credentials of a client: TLS files and the bearer token."""

from __future__ import annotations

import os
from pathlib import Path

import grpc


def tls(
    ca: Path | None = None, certificate: Path | None = None, key: Path | None = None
) -> grpc.ChannelCredentials:
    """Return TLS credentials for :class:`streamer.client.Client`.

    Args:
        ca: PEM file of the authority that signed the server's certificate; None trusts those that
            gRPC knows.
        certificate: PEM file of the client's own certificate, for a server that requires one.
        key: private key of the certificate.

    Raises:
        ValueError: one of certificate and key without the other, or a file that cannot be read.
    """
    if (certificate is None) != (key is None):
        raise ValueError(f"certificate {certificate} and key {key}: give both or neither")
    try:
        roots, chain, private = (
            None if file is None else file.read_bytes() for file in (ca, certificate, key)
        )
    except OSError as error:
        raise ValueError(f"{error.filename}: {error.strerror}") from error
    return grpc.ssl_channel_credentials(roots, private, chain)


VARIABLE = "VOICECOHORT_TOKEN"


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """Return the headers of a call; none for an empty token.

    Raises:
        ValueError: the token is not valid; the message does not contain it.
    """
    if not token:
        return ()
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError("the token must be printable ASCII without spaces")
    return (("authorization", f"Bearer {token}"),)


def read_token(file: Path | None) -> str:
    """Return the token in a file, or in VOICECOHORT_TOKEN if ``file`` is None; strip white space.

    Raises:
        ValueError: the file cannot be read or is empty.
    """
    if file is None:
        return os.environ.get(VARIABLE, "").strip()
    try:
        token = file.read_text(encoding="ascii").strip()
    except OSError as error:
        raise ValueError(f"{error.filename}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ValueError(f"{file}: not ASCII") from None
    if not token:
        raise ValueError(f"{file}: holds no token")
    return token
