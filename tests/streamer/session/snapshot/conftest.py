"""Another server, and the audio of the calls that move to it."""

import functools

import pytest

from tests.streamer.session.snapshot.steps import RATE


@pytest.fixture(scope="package")
def elsewhere(make_bench):
    """The engine of another server."""
    return make_bench()


@pytest.fixture(scope="package")
def data(audio, voices):
    """Function of the format: the bytes of 3 s of two speakers."""
    signals = [side[7 * RATE : 10 * RATE] for side in (voices.caller, voices.agent)]
    return functools.cache(lambda form: audio.wire(signals[: form[2]], form[0], form[1]))
