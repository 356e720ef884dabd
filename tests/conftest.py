"""What every test may use: the shipped student, the demo call, a running server."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

from streamer.demo.__main__ import CALL
from streamer.local import local_server
from streamer.student import DEFAULT_MODEL, Student
from streamer.telephone_file import read_as_call

# A loaded machine is slow, which is not a failure; the runs' size is bounded by max_examples.
settings.register_profile(
    "voicecohort",
    deadline=None,
    max_examples=25,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("voicecohort")


@pytest.fixture(scope="session")
def student():
    """The shipped student, on the CPU. Its weights are of no concern to any test."""
    return Student(DEFAULT_MODEL, provider="cpu")


@pytest.fixture(scope="session")
def demo_file():
    """Path of the demo call: two channels of mu-law at 8 kHz."""
    return CALL


@pytest.fixture(scope="session")
def demo_call(demo_file):
    """The demo call as a gateway would deliver it; `data` are its bytes."""
    return read_as_call(demo_file)


@pytest.fixture(scope="session")
def server():
    """One server process with default settings for all tests that only talk to it."""
    with local_server("--provider", "cpu") as running:
        yield running
