"""Streams without a config: how long they may wait, by a clock that the test sets."""

import asyncio

import pytest

from streamer.call.setup import PendingStreams
from streamer.errors import ConfigTimeout, Draining, FailedPrecondition
from streamer.rpc import voicecohort_pb2 as pb

CONFIG = pb.StreamClassifyRequest(config=pb.StreamConfig(call_id="x"))


async def never():
    await asyncio.Event().wait()


async def settle():
    for _ in range(5):
        await asyncio.sleep(0)


def test_each_waits_its_own_time(run_async):
    async def scenario():
        now = [100.0]
        openings = PendingStreams(10.0, lambda: now[0])
        first = asyncio.create_task(openings.config(never))
        await settle()
        now[0] += 6.0
        second = asyncio.create_task(openings.config(never))
        await settle()
        now[0] += 4.0
        openings.sweep()
        await settle()
        assert len(openings) == 2, "the limit itself is not beyond it"
        now[0] += 0.1
        openings.sweep()
        await settle()
        with pytest.raises(ConfigTimeout, match="within 10 s of the stream's opening"):
            await first
        assert not second.done()
        now[0] += 6.0
        openings.sweep()
        with pytest.raises(ConfigTimeout):
            await second
        assert len(openings) == 0

    run_async(scenario())


def test_a_config_in_time_is_taken_and_its_stream_forgotten(run_async):
    async def scenario():
        now = [0.0]
        openings = PendingStreams(10.0, lambda: now[0])
        message = asyncio.get_running_loop().create_future()
        waiting = asyncio.create_task(openings.config(lambda: message))
        await settle()
        now[0] = 9.9
        openings.sweep()
        message.set_result(CONFIG)
        assert (await waiting).call_id == "x"
        assert len(openings) == 0

    run_async(scenario())


def test_the_end_of_the_server_reaches_all_of_them(run_async):
    async def scenario():
        openings = PendingStreams(10.0, lambda: 0.0)
        tasks = [asyncio.create_task(openings.config(never)) for _ in range(3)]
        await settle()
        openings.stop(Draining())
        for task in tasks:
            with pytest.raises(Draining):
                await task

    run_async(scenario())


@pytest.mark.parametrize("first", [None, pb.StreamClassifyRequest(audio=pb.Audio())])
def test_anything_else_is_refused(run_async, first):
    async def scenario():
        openings = PendingStreams(10.0, lambda: 0.0)

        async def read():
            return first

        with pytest.raises(FailedPrecondition, match="first message"):
            await openings.config(read)
        assert len(openings) == 0

    run_async(scenario())


def test_a_stream_that_breaks_is_forgotten(run_async):
    async def scenario():
        openings = PendingStreams(10.0, lambda: 0.0)
        waiting = asyncio.create_task(openings.config(never))
        await settle()
        waiting.cancel()
        await asyncio.wait({waiting})
        assert waiting.cancelled()
        assert len(openings) == 0

    run_async(scenario())
