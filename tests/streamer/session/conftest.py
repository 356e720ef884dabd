"""Speech for the tests of the session."""

import pytest

from streamer.audio.codec import Encoding

RATE = 8000


@pytest.fixture(scope="package")
def sides(voices):
    """Two sides of 3 s: speech and a pause, crossing over each other."""
    return (voices.caller[7 * RATE : 10 * RATE], voices.agent[7 * RATE : 10 * RATE])


@pytest.fixture
def call(bench):
    """A mono mu-law call on the fake student, with speech events."""
    return bench.session(speech_events=True)


@pytest.fixture(scope="package")
def speech(voices, audio):
    """2 s of a speaking caller, mu-law."""
    return audio.wire([voices.caller[5 * RATE : 7 * RATE]], Encoding.MULAW)
