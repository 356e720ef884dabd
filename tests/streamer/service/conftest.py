"""Servers for the tests of the service."""

import pytest

from streamer.audio.codec import Encoding, encode
from streamer.process.local_server import local_server
from tests.streamer.wire import RATE


@pytest.fixture(scope="package")
def speech(voices):
    """2 s of a speaking caller, mu-law."""
    return encode(voices.caller[5 * RATE : 7 * RATE], Encoding.MULAW)


@pytest.fixture(scope="package")
def impatient():
    """A server that waits 1.5 s for a message, the first included."""
    limits = ("--idle-timeout", "1.5", "--config-timeout", "1.5")
    with local_server(*limits, "--drain-seconds", "1") as server:
        yield server


@pytest.fixture(scope="package")
def small():
    """A server for two calls, with chunks as long as may be set."""
    with local_server("--provider", "cpu", "--max-calls", "2", "--max-chunk-seconds", "60") as s:
        yield s
