"""Binding a HOST:PORT ahead of gRPC, whose own failure is many lines of C++ log."""

from __future__ import annotations

import socket


def check_address(listen: str) -> None:
    """Make sure that nobody else listens there.

    Raises:
        RuntimeError: one line naming the address and the reason.
    """
    _bind(listen, socket.SO_REUSEADDR).close()


def reserve(listen: str) -> tuple[socket.socket, str]:
    """Hold an address that other sockets with SO_REUSEPORT may listen on; nothing arrives here.

    Returns:
        What holds it, and HOST:PORT with the port that 0 became.

    Raises:
        RuntimeError: as above.
    """
    check_address(listen)
    try:
        held = _bind(listen, socket.SO_REUSEPORT)
    except RuntimeError:
        # Remains of connections to a server that did not share its port; with this option a
        # second server would find the port free until one of ours listens.
        held = _bind(listen, socket.SO_REUSEPORT, socket.SO_REUSEADDR)
    return held, f"{listen.rpartition(':')[0]}:{held.getsockname()[1]}"


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
