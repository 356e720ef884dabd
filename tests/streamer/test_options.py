"""gRPC ignores options that it does not know: none of ours may be misspelt."""

from pathlib import Path

import pytest
from grpc._cython import cygrpc

from streamer import server
from streamer.client import api


@pytest.fixture(scope="module")
def core():
    """gRPC's core, in which every option's name is a C string."""
    return Path(cygrpc.__file__).read_bytes()


@pytest.mark.parametrize("name", [name for name, _ in (*server.OPTIONS, *api.OPTIONS)])
def test_grpc_knows_the_option(core, name):
    assert f"{name}\0".encode() in core


def test_the_server_allows_the_clients_pings():
    """Otherwise a call that is silent for long ends with GOAWAY, "too_many_pings"."""
    allowed = dict(server.OPTIONS)["grpc.http2.min_ping_interval_without_data_ms"]
    assert dict(api.OPTIONS)["grpc.keepalive_time_ms"] > allowed
