"""A server with a fake student, and what is said to it."""

import asyncio

import numpy as np
import pytest

from tests.streamer.faults.hurt import RATE, Hurt


@pytest.fixture
def hurt(run_async, make_student, make_line):
    """Run a scenario against a server with a fake student."""

    async def main(scenario, options):
        local = Hurt(make_student(), make_line, **options)
        await local.start()
        try:
            await scenario(local)
        finally:
            local.student.gate.set()
            local.student.freed.set()
            await local.channel.close()
            await local.server.stop(None)
            await asyncio.to_thread(local.engine.stop)
        assert local.service.running == 0
        assert local.service._calls == set()
        assert local.service._admission.held == {}
        assert local.models._calls[local.models.current] == 0

    return lambda scenario, **options: run_async(main(scenario, options))


@pytest.fixture
def noise():
    """2 s that pass for speech; made at random, so the gate opens."""
    return np.random.default_rng(0).integers(-9000, 9000, 2 * RATE).astype(np.int16)


@pytest.fixture
def marked(noise):
    """The same, with a marker at the start of its first block."""

    def mark(marker):
        samples = noise.copy()
        samples[0] = marker
        return samples

    return mark
