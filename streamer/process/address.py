"""Bind HOST:PORT before gRPC does, which reports a failure in many lines of C++ log."""

from __future__ import annotations

import socket


def check_address(listen: str) -> None:
    """Check that the address can be bound.

    Raises:
        RuntimeError: one line naming the address and the reason.
    """
    _bind(listen, socket.SO_REUSEADDR).close()


def reserve(listen: str) -> tuple[socket.socket, str]:
    """Reserve an address for sockets with SO_REUSEPORT; this socket does not listen.

    Returns:
        The socket, and HOST:PORT with the bound port.

    Raises:
        RuntimeError: see :func:`check_address`.
    """
    check_address(listen)
    try:
        reserved = _bind(listen, socket.SO_REUSEPORT)
    except RuntimeError:
        # Old connections of a server without SO_REUSEPORT may block the port. SO_REUSEADDR is only
        # the fallback: with it another server could bind the port until a worker listens.
        reserved = _bind(listen, socket.SO_REUSEPORT, socket.SO_REUSEADDR)
    return reserved, f"{listen.rpartition(':')[0]}:{reserved.getsockname()[1]}"


def _bind(listen: str, *options: int) -> socket.socket:
    host, _, port = listen.rpartition(":")
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM
        )[0]
        bound = socket.socket(family, kind)
        try:
            for option in options:
                bound.setsockopt(socket.SOL_SOCKET, option, 1)
            bound.bind(address)
        except OSError:
            bound.close()
            raise
    except OSError as error:
        raise RuntimeError(f"cannot listen on {listen}: {error.strerror}") from error
    return bound
