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


@pytest.fixture
def trunked(in_process):
    """Run a scenario with a server and the end of a trunk to it."""

    def run(scenario):
        async def main(local):
            gateway = Gateway(local.channel)
            try:
                await scenario(local, gateway)
            finally:
                gateway.stream.cancel()

        in_process(main)

    return run
