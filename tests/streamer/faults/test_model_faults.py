"""Faults of the model, under real gRPC: statuses, health, and the calls that are undisturbed."""

import asyncio

import pytest

from streamer.errors import InferenceUnavailable, Unhealthy
from tests.streamer.faults.harness import (
    NOT_SERVING,
    SERVING,
    Code,
    audio,
    config,
    undisturbed_call,
    until,
)


@pytest.mark.parametrize(
    ("marker", "cause"),
    [("RAISES", "ArithmeticError"), ("NAN", "not finite"), ("INF", "not finite")],
)
def test_failing_batches_make_the_server_unhealthy(faulty, noise, marked, marker, cause):
    """Three whole batches in a row, until a probe is answered."""

    async def scenario(server):
        async with undisturbed_call(server, noise):
            for number in (1, 2, 3):
                await server.check()
                assert await server.status() == SERVING
                outcome = await server.call(marked(getattr(server.model, marker)))
                assert outcome.code is Code.INTERNAL
                assert cause in outcome.details
                assert not outcome.retry
                assert server.metric("inference_failures_total") == number
            server.model.gate.clear()  # the probe is not answered yet
            await server.check()
            assert await server.status() == NOT_SERVING
            assert server.metric("healthy") == 0
            refused = await server.call(noise)
            assert refused.code is Code.UNAVAILABLE
            assert refused.details == str(Unhealthy("the last 3 batches failed"))
            assert refused.retry
            await until(
                lambda: server.metric("refusals_total", status="UNAVAILABLE", reason="student") == 1
            )
            server.model.gate.set()
            await server.recover()
            assert await server.status() == SERVING
            assert server.metric("healthy") == 1
        assert (await server.call(noise)).code is Code.OK

    faulty(scenario)


def test_stuck_step_ends_the_calls_of_its_batch(faulty, noise, marked):
    async def scenario(server):
        async with undisturbed_call(server, noise):
            bad = server.open(config(), audio(1, marked(server.model.STUCK)))
            await until(server.model.stuck.is_set)
            await server.check(4.0)
            assert await server.status() == SERVING
            await server.check(2.0)
            assert await server.status() == NOT_SERVING
            outcome = await bad.outcome()
            assert outcome.code is Code.UNAVAILABLE
            assert outcome.details == str(InferenceUnavailable("the step is stuck"))
            assert outcome.retry
            await until(
                lambda: server.metric("calls_total", status="UNAVAILABLE", reason="student") == 1
            )
            await server.recover()  # a successor answers the probe
            assert not server.model.freed.is_set(), "the old thread is still stuck"
            assert await server.status() == SERVING
        assert (await server.call(noise)).code is Code.OK

    faulty(scenario)


def test_model_that_stays_stuck_ends_the_server(faulty, noise):
    """Every successor is stuck too: unhealthy, and in the end one request to exit."""

    async def scenario(server):
        server.model.gate.clear()
        call = server.open(config(), audio(1, noise))
        await until(server.model.stepping.is_set)
        for _ in range(20):
            await server.check(3.0)
            await asyncio.sleep(0.02)  # the successor takes the probe
        assert await server.status() == NOT_SERVING
        assert (await call.outcome()).code is Code.UNAVAILABLE
        assert server.exits == 0
        assert server.engine.health.unhealthy_seconds == pytest.approx(54, abs=6)
        server.now += 7
        await server.check()
        await server.check()
        assert server.exits == 1

    faulty(scenario, exit_seconds=60.0)


def test_out_of_memory_for_many_disturbs_no_call(faulty, noise):
    async def scenario(server):
        expected = await server.call(noise)
        server.model.max_rows = 1
        outcomes = await asyncio.gather(*(server.call(noise) for _ in range(6)))
        assert {(o.code, tuple(o.finals)) for o in outcomes} == {(Code.OK, tuple(expected.finals))}
        await server.check()
        assert await server.status() == SERVING

    faulty(scenario)


def test_out_of_memory_for_one_block(faulty, noise):
    async def scenario(server):
        async with undisturbed_call(server, noise):
            server.model.max_rows = 0
            for _ in range(3):
                outcome = await server.call(noise)
                assert outcome.code is Code.UNAVAILABLE
                assert outcome.details == str(InferenceUnavailable("out of memory"))
                assert outcome.retry
            await server.check()
            assert await server.status() == NOT_SERVING
            server.model.max_rows = 1000
            await server.recover()
            assert await server.status() == SERVING
        assert (await server.call(noise)).code is Code.OK

    faulty(scenario)
