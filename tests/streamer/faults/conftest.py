"""A server around a fake model, and audio for calls to it."""

import numpy as np
import pytest

from tests.streamer.doubles import FakeModel
from tests.streamer.faults.harness import SAMPLE_RATE, FaultyServer


@pytest.fixture
def faulty(run_async, make_line):
    """Run a scenario against a server whose faults the test causes."""

    async def main(scenario, options):
        server = FaultyServer(FakeModel(), make_line, **options)
        await server.start()
        try:
            await scenario(server)
        finally:
            await server.stop()
        assert server.service.supervisor.open_streams == 0
        assert server.service.supervisor.calls == set()
        assert server.service._admission.held == {}
        assert server.models._calls[server.models.current] == 0

    return lambda scenario, **options: run_async(main(scenario, options))


@pytest.fixture
def noise():
    """Two seconds of noise, which the speech gate takes for speech."""
    return np.random.default_rng(0).integers(-9000, 9000, 2 * SAMPLE_RATE).astype(np.int16)


@pytest.fixture
def marked(noise):
    """The same noise with a marker at the start of its first block."""

    def mark(marker):
        samples = noise.copy()
        samples[0] = marker
        return samples

    return mark
