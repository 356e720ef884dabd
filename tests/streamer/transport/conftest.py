"""The end of a trunk to the server in this process."""

import pytest

from tests.streamer.transport.gateway import Gateway


@pytest.fixture
def gateway(run_async, local):
    """The end of a trunk to `local`."""

    async def connect():
        return Gateway(local.channel)

    gateway = run_async(connect())
    yield gateway
    gateway.stream.cancel()
