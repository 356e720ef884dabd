"""Doubles and helpers of the streamer's tests, handed out as fixtures."""

from __future__ import annotations

import inspect
import socket
from types import SimpleNamespace

import pytest

from streamer.audio.codec import SAMPLE_RATE, Encoding, decode, encode
from tests.streamer.doubles import Bench, FakeModel
from tests.streamer.in_process import serve_locally
from tests.streamer.lines import Line, Neighbour, Request, logged, same_prediction
from tests.streamer.signals import cut, decoded, direct, wire


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """Run a test that is a coroutine on the loop of `run_async`."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    pyfuncitem._request.getfixturevalue("run_async")(pyfuncitem.obj(**arguments))
    return True


@pytest.fixture(scope="session")
def make_student():
    """The class of fake students."""
    return FakeModel


@pytest.fixture(scope="session")
def make_bench():
    """Start an engine around a student; it is stopped at the end of the run."""
    made = []

    def make(student=None, **options):
        made.append(Bench(student or FakeModel(), **options))
        return made[-1]

    yield make
    for bench in made:
        if isinstance(bench.student, FakeModel):
            bench.student.gate.set()
            bench.student.freed.set()
        bench.engine.stop()


@pytest.fixture(scope="session")
def bench(make_bench):
    """An engine around a fake student, shared by tests that leave its gate alone."""
    return make_bench()


@pytest.fixture(scope="session")
def real_bench(make_bench, student):
    """An engine around the shipped student."""
    return make_bench(student)


@pytest.fixture(scope="session")
def voices(demo_call):
    """The demo call's two sides, int16 at 8 kHz."""
    samples = decode(demo_call.data, Encoding.MULAW)
    return SimpleNamespace(caller=samples[0::2].copy(), agent=samples[1::2].copy())


@pytest.fixture(scope="session")
def audio():
    """Functions on audio: wire, cut, direct, decoded."""
    return SimpleNamespace(wire=wire, cut=cut, direct=direct, decoded=decoded)


@pytest.fixture(scope="session")
def request_of():
    """Makers of requests: config, audio, control."""
    return Request


@pytest.fixture(scope="session")
def make_line():
    """Connect to a target."""
    made = []

    def make(target, *options):
        made.append(Line(target, options))
        return made[-1]

    yield make
    for line in made:
        line.channel.close()


@pytest.fixture(scope="session")
def line(server, make_line):
    """A connection to the shared server."""
    return make_line(server.target)


@pytest.fixture(scope="session")
def log_entry():
    """Wait for a line of a server's log."""
    return logged


@pytest.fixture(scope="session")
def assert_same_prediction():
    """Compare two Prediction messages: times exactly, posteriors to 1e-5."""
    return same_prediction


@pytest.fixture(scope="session")
def make_neighbour():
    """Make a good call on a line out of 8 kHz samples."""
    return Neighbour


@pytest.fixture(scope="session")
def neighbour(line, voices):
    """The good call on the shared server."""
    return Neighbour(line, voices.caller[4 * SAMPLE_RATE : 9 * SAMPLE_RATE])


@pytest.fixture
def free_port():
    """A loopback port without a listener."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def options():
    """Settings of `local`; tests parametrise it."""
    return {}


@pytest.fixture
def identities():
    """Identities of the callers of `local`; None for addresses."""


@pytest.fixture
def local(run_async, options, identities):
    """A server around a fake model, in this process."""
    with serve_locally(run_async, identities, options) as server:
        yield server


@pytest.fixture
def in_process(run_async):
    """Run a scenario against a server around a fake model."""

    def run(scenario, identities=None, **options):
        with serve_locally(run_async, identities, options) as server:
            run_async(scenario(server))

    return run


@pytest.fixture(scope="module")
def chunks(request_of, voices):
    """Four seconds of the demo call's caller, forty messages."""
    data = encode(voices.caller[5 * SAMPLE_RATE : 9 * SAMPLE_RATE], Encoding.MULAW)
    return [request_of.audio(number, part) for number, part in enumerate(cut(data, [800]), start=1)]


@pytest.fixture(scope="module")
def quiet(line, request_of, chunks):
    """Their final prediction by a server of one process that is left alone."""
    return line.run(request_of.config(), *chunks).finals[0]
