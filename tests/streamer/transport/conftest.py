"""A server in this process and the end of a trunk to it."""

import pytest

from tests.streamer.transport.gateway import Gateway


@pytest.fixture
def trunked(in_process):
    """Run a scenario with a server and the end of a trunk to it."""

    def run(scenario, **options):
        async def main(local):
            gateway = Gateway(local.channel)
            try:
                await scenario(local, gateway)
            finally:
                gateway.stream.cancel()

        in_process(main, **options)

    return run
