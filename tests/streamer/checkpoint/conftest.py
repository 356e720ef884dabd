"""Two replicas in this process."""

import base64
import os
from types import SimpleNamespace

import pytest

from streamer.audio.codec import Encoding
from streamer.settings import ServerSettings
from tests.streamer.checkpoint.replicas import (
    CHUNK,
    RATE,
    Replica,
)


@pytest.fixture(scope="package")
def chunks(audio, voices):
    """Six seconds of a caller, in 60 messages."""
    signal = voices.caller[4 * RATE : 10 * RATE]
    return audio.cut(audio.wire([signal], Encoding.MULAW), [CHUNK])


@pytest.fixture(scope="package")
def keys(tmp_path_factory):
    path = tmp_path_factory.mktemp("keys") / "keys.toml"
    secret = base64.b64encode(os.urandom(32)).decode()
    path.write_text(f'[[key]]\nid = "k"\nsecret = "{secret}"\n')
    return path


@pytest.fixture
def replicas(run_async, make_student, keys):
    """Run a scenario with replicas; made by ``make(keys=..., digest=..., **settings)``."""

    async def main(scenario):
        made, clock = [], SimpleNamespace(now=1000.0)

        async def make(keys=keys, digest=None, **settings):
            student = make_student()
            student.digest = digest or student.digest
            made.append(Replica(student, keys, clock, ServerSettings(**settings)))
            await made[-1].server.start()
            return made[-1]

        try:
            await scenario(make, clock)
        finally:
            for replica in made:
                await replica.stop()

    return lambda scenario: run_async(main(scenario))
