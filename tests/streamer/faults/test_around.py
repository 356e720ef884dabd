"""Faults of what is around the student, under real gRPC: one call ends, the others go on."""

import asyncio

import pytest
import structlog

from tests.streamer.faults.hurt import (
    SERVING,
    Code,
    config,
    neighbour,
    speech,
    until,
)


def broken_calls(local, where, error):
    """Calls whose id is "bad" raise ``error`` in a method of their session or of their own."""
    begin = local.service._factory.begin

    def begin_broken(*arguments):
        call = begin(*arguments)
        if call.config.call_id == "bad":
            owner = {"session": call.session, "call": call}[where[0]]

            def raising(*_args, **_kwargs):
                raise error

            setattr(owner, where[1], raising)
        return call

    local.service._factory.begin = begin_broken


@pytest.mark.parametrize(
    ("where", "error"),
    [
        (("session", "audio"), MemoryError()),
        (("session", "finish"), KeyError("x")),
        (("call", "on_prediction"), ZeroDivisionError()),
        (("call", "on_progress"), MemoryError()),
        (("call", "read_all"), TimeoutError()),
    ],
)
def test_unexpected_exception_ends_one_call(hurt, noise, where, error):
    async def scenario(local):
        broken_calls(local, where, error)
        with structlog.testing.capture_logs() as logs:
            async with neighbour(local, noise):
                stream = local.open(*speech(noise, "bad"))
                stream.half_close()
                outcome = await stream.outcome()
                assert (outcome.code, outcome.details) == (
                    Code.INTERNAL,
                    f"the server failed on this call: {type(error).__name__}",
                )
                assert outcome.finals == []
                assert not outcome.retry
        await until(lambda: local.counted("calls_total", status="INTERNAL", reason="fault") == 1)
        (ended,) = [e for e in logs if e["event"] == "call_ended" and e["call_id"] == "bad"]
        assert (ended["status"], ended["reason_code"]) == ("INTERNAL", "fault")
        if where[1] in {"audio", "read_all", "finish"}:
            (entry,) = [e for e in logs if e["event"] == "call_exception"]
            assert (entry["call_id"], entry["log_level"]) == ("bad", "error")
        await local.look()
        assert await local.says() == SERVING

    hurt(scenario)


def test_prediction_that_cannot_be_made_is_not_left_out_in_silence(hurt, monkeypatch):
    """The last one of all, when nobody waits for the writer but the end."""

    async def scenario(local):
        def raising(*_):
            raise AttributeError

        monkeypatch.setattr("streamer.transport.converters.prediction", raising)
        with structlog.testing.capture_logs() as logs:
            stream = local.open(config("bad"))
            stream.half_close()
            outcome = await stream.outcome()
        assert (outcome.code, outcome.details) == (
            Code.INTERNAL,
            "the server failed on this call: AttributeError",
        )
        assert [e["call_id"] for e in logs if e["event"] == "call_exception"] == ["bad"]

    hurt(scenario)


def test_exception_before_there_is_a_call_is_counted_and_leaves_no_slot(hurt, noise):
    async def scenario(local):
        begin, failing = local.service._factory.begin, [MemoryError()]

        def begin_once(*arguments):
            if failing:
                raise failing.pop()
            return begin(*arguments)

        local.service._factory.begin = begin_once
        with structlog.testing.capture_logs() as logs:
            outcome = await local.whole(noise)
        assert (outcome.code, outcome.details) == (
            Code.INTERNAL,
            "the server failed on this call: MemoryError",
        )
        assert [e["call_id"] for e in logs if e["event"] == "call_exception"] == [""]
        await until(lambda: local.counted("refusals_total", status="INTERNAL", reason="fault") == 1)
        assert local.service.running == 0
        assert (await local.whole(noise)).code is Code.OK

    hurt(scenario)


def test_sweep_that_raises_is_tried_again(hurt):
    """The limits of time must hold after it."""

    async def scenario(local):
        swept = []

        def sweep():
            swept.append(1)
            raise RuntimeError("sweep")

        local.service.sweep = sweep
        local.service.measured = lambda *_: None
        watching = asyncio.create_task(local.service.watch())
        await until(lambda: len(swept) == 2)
        watching.cancel()

    hurt(scenario)


def test_watchdog_that_raises_looks_again(hurt):
    async def scenario(local):
        looks = []

        async def look():
            looks.append(1)
            raise RuntimeError("look")

        local.watchdog.check = look
        running = asyncio.create_task(local.watchdog.run())
        await until(lambda: len(looks) == 2)
        assert not running.done()
        running.cancel()

    hurt(scenario)
