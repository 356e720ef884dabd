"""A fake model and a clock that only the test advances."""

import pytest

from tests.streamer.doubles import FakeModel


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def fake():
    return FakeModel()
