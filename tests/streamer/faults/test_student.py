"""Faults of the student under real gRPC: who gets a status, who notices nothing, what is told."""

import asyncio

import pytest

from tests.streamer.faults.hurt import (
    NOT_SERVING,
    SERVING,
    Code,
    neighbour,
    speech,
    until,
)


@pytest.mark.parametrize(
    ("marker", "cause"),
    [("RAISES", "ArithmeticError"), ("NAN", "not finite"), ("INF", "not finite")],
)
def test_student_that_fails_on_calls_in_a_row(hurt, noise, marked, marker, cause):
    """Three whole batches: not healthy, until a probe is answered; the neighbour goes on."""

    async def scenario(local):
        async with neighbour(local, noise):
            for number in (1, 2, 3):
                await local.look()
                assert await local.says() == SERVING
                outcome = await local.whole(marked(getattr(local.student, marker)))
                assert outcome.code is Code.INTERNAL
                assert cause in outcome.details
                assert not outcome.retry
                failures = local.counted("inference_failures_total")
                assert failures == number
            local.student.gate.clear()  # the probe is not answered yet
            await local.look()
            assert await local.says() == NOT_SERVING
            assert local.counted("healthy") == 0
            refused = await local.whole(noise)
            assert refused.code is Code.UNAVAILABLE
            assert refused.details == (
                "the server is not healthy: the last 3 batches failed; another one may answer"
            )
            assert refused.retry
            await until(
                lambda: local.counted("refusals_total", status="UNAVAILABLE", reason="student") == 1
            )
            local.student.gate.set()
            await local.recovers()
            assert await local.says() == SERVING
            assert local.counted("healthy") == 1
        assert (await local.whole(noise)).code is Code.OK

    hurt(scenario)


def test_stuck_step(hurt, noise, marked):
    async def scenario(local):
        async with neighbour(local, noise):
            bad = local.open(*speech(marked(local.student.STUCK)))
            await until(local.student.stuck.is_set)
            await local.look(4.0)
            assert await local.says() == SERVING
            await local.look(2.0)
            assert await local.says() == NOT_SERVING
            outcome = await bad.outcome()
            assert outcome.code is Code.UNAVAILABLE
            assert outcome.details == "the student failed on this call: the step is stuck"
            assert outcome.retry
            await until(
                lambda: local.counted("calls_total", status="UNAVAILABLE", reason="student") == 1
            )
            await local.recovers()  # a successor answers the probe; the old thread is still stuck
            assert not local.student.freed.is_set()
            assert await local.says() == SERVING
        assert (await local.whole(noise)).code is Code.OK

    hurt(scenario)


def test_student_that_sticks_for_good(hurt, noise):
    """No successor gets through either: not healthy, and given up in the end, once."""

    async def scenario(local):
        local.student.gate.clear()
        call = local.open(*speech(noise))
        await until(local.student.stepping.is_set)
        for _ in range(20):
            await local.look(3.0)
            await asyncio.sleep(0.02)  # the successor takes up the probe
        assert await local.says() == NOT_SERVING
        outcome = await call.outcome()
        assert outcome.code is Code.UNAVAILABLE
        assert local.gave_up == []
        assert local.engine.health.unhealthy_seconds == pytest.approx(54, abs=6)
        local.now += 7
        await local.look()
        await local.look()
        assert local.gave_up == [1]

    hurt(scenario, exit_seconds=60.0)


def test_out_of_memory_for_many_is_noticed_by_none(hurt, noise):
    async def scenario(local):
        quiet = await local.whole(noise)
        local.student.max_rows = 1
        outcomes = await asyncio.gather(*(local.whole(noise) for _ in range(6)))
        assert {(o.code, tuple(o.finals)) for o in outcomes} == {(Code.OK, tuple(quiet.finals))}
        await local.look()
        assert await local.says() == SERVING

    hurt(scenario)


def test_out_of_memory_for_each(hurt, noise):
    async def scenario(local):
        async with neighbour(local, noise):
            local.student.max_rows = 0
            for _ in range(3):
                outcome = await local.whole(noise)
                assert outcome.code is Code.UNAVAILABLE
                assert outcome.details == "the student failed on this call: out of memory"
                assert outcome.retry
            await local.look()
            assert await local.says() == NOT_SERVING
            local.student.max_rows = 1000
            await local.recovers()
            assert await local.says() == SERVING
        assert (await local.whole(noise)).code is Code.OK

    hurt(scenario)
