"""How a client trusts a server, and proves who it is."""

from __future__ import annotations

from pathlib import Path

import grpc


def tls(
    ca: Path | None = None, certificate: Path | None = None, key: Path | None = None
) -> grpc.ChannelCredentials:
    """Credentials for :class:`streamer.client.Client`.

    Args:
        ca: PEM file of the authority that signed the server's certificate; None trusts those that
            gRPC knows.
        certificate: PEM file of the client's own certificate, for a server that asks for one.
        key: its private key.

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
