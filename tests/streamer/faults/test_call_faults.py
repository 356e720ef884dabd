"""Faults of the server's own code, under real gRPC: one call ends, the others continue."""

import asyncio

import pytest
import structlog

from streamer.errors import ServerFault
from tests.streamer.faults.harness import SERVING, Code, config, undisturbed_call, until


def break_calls(server, owner, method, error):
    """Let calls with the id "bad" raise ``error`` in a method of their session or their own."""
    begin = server.service._factory.create

    def begin_broken(*arguments):
        call = begin(*arguments)
        if call.config.call_id == "bad":

            def raising(*_args, **_kwargs):
                raise error

            setattr(call.session if owner == "session" else call, method, raising)
        return call

    server.service._factory.create = begin_broken


@pytest.mark.parametrize(
    ("owner", "method", "error"),
    [
        ("session", "audio", MemoryError()),
        ("session", "finish", KeyError("x")),
        ("call", "on_prediction", ZeroDivisionError()),
        ("call", "on_progress", MemoryError()),
        ("call", "receive_all", TimeoutError()),
    ],
)
def test_unexpected_exception_ends_one_call(faulty, noise, owner, method, error):
    async def scenario(server):
        break_calls(server, owner, method, error)
        with structlog.testing.capture_logs() as logs:
            async with undisturbed_call(server, noise):
                outcome = await server.call(noise, "bad")
                assert (outcome.code, outcome.details) == (Code.INTERNAL, str(ServerFault(error)))
                assert outcome.finals == []
                assert not outcome.retry
        await until(lambda: server.metric("calls_total", status="INTERNAL", reason="fault") == 1)
        (ended,) = [e for e in logs if e["event"] == "call_ended" and e["call_id"] == "bad"]
        assert (ended["status"], ended["reason_code"]) == ("INTERNAL", "fault")
        if method in {"audio", "receive_all", "finish"}:
            (entry,) = [e for e in logs if e["event"] == "call_exception"]
            assert (entry["call_id"], entry["log_level"]) == ("bad", "error")
        await server.check()
        assert await server.status() == SERVING

    faulty(scenario)


def test_failing_last_prediction_ends_the_call(faulty, monkeypatch):
    """The final prediction, after which only the end of the call waits for the writer."""

    async def scenario(server):
        def raising(*_):
            raise AttributeError

        monkeypatch.setattr("streamer.transport.converters.prediction", raising)
        with structlog.testing.capture_logs() as logs:
            stream = server.open(config("bad"))
            stream.half_close()
            outcome = await stream.outcome()
        assert (outcome.code, outcome.details) == (
            Code.INTERNAL,
            str(ServerFault(AttributeError())),
        )
        assert [e["call_id"] for e in logs if e["event"] == "call_exception"] == ["bad"]

    faulty(scenario)


def test_exception_before_a_call_exists_leaves_no_slot(faulty, noise):
    async def scenario(server):
        begin, errors = server.service._factory.create, [MemoryError()]

        def begin_once(*arguments):
            if errors:
                raise errors.pop()
            return begin(*arguments)

        server.service._factory.create = begin_once
        with structlog.testing.capture_logs() as logs:
            outcome = await server.call(noise)
        assert (outcome.code, outcome.details) == (Code.INTERNAL, str(ServerFault(MemoryError())))
        assert [e["call_id"] for e in logs if e["event"] == "call_exception"] == [""]
        await until(lambda: server.metric("refusals_total", status="INTERNAL", reason="fault") == 1)
        assert server.service.supervisor.open_streams == 0
        assert (await server.call(noise)).code is Code.OK

    faulty(scenario)


def test_sweep_that_raises_is_repeated(faulty):
    """The time limits must hold after it."""

    async def scenario(server):
        sweeps = []

        def sweep():
            sweeps.append(1)
            raise RuntimeError("sweep")

        server.service.supervisor.sweep = sweep
        server.service.measured = lambda *_: None
        watching = asyncio.create_task(server.service.supervisor.run())
        await until(lambda: len(sweeps) == 2)
        watching.cancel()

    faulty(scenario)


def test_watchdog_check_that_raises_is_repeated(faulty):
    async def scenario(server):
        checks = []

        async def check():
            checks.append(1)
            raise RuntimeError("check")

        server.watchdog.check = check
        running = asyncio.create_task(server.watchdog.run())
        await until(lambda: len(checks) == 2)
        assert not running.done()
        running.cancel()

    faulty(scenario)
