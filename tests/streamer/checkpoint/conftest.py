"""Two replicas in this process."""

import base64
import os
from types import SimpleNamespace

import pytest

from streamer.audio.codec import Encoding
from streamer.settings import ServerSettings
from tests.streamer.checkpoint.replicas import CHUNK, Replica
from tests.streamer.wire import RATE


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
def clock():
    """The clock of all replicas; tests set `now`."""
    return SimpleNamespace(now=1000.0)


@pytest.fixture
def make(run_async, make_student, keys, clock):
    """Start a replica: ``await make(keys=..., **settings)``."""
    made = []

    async def start(keys=keys, **settings):
        made.append(Replica(make_student(), keys, clock, ServerSettings(**settings)))
        await made[-1].server.start()
        return made[-1]

    yield start
    for replica in made:
        run_async(replica.stop())


@pytest.fixture
def here(run_async, make):
    """The replica on which a call starts."""
    return run_async(make())


@pytest.fixture
def there(run_async, make):
    """The replica on which it continues."""
    return run_async(make())
