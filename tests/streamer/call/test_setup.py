"""Streams that wait for their config."""

import asyncio

import pytest

from streamer.call.setup import PendingStreams
from streamer.errors import ConfigTimeout, Draining, FailedPrecondition
from streamer.rpc import voicecohort_pb2 as pb

CONFIG = pb.StreamClassifyRequest(config=pb.StreamConfig(call_id="x"))


@pytest.fixture
def now():
    return [100.0]


@pytest.fixture
def pending(now):
    return PendingStreams(10.0, lambda: now[0])


async def never():
    await asyncio.Event().wait()


async def settle():
    for _ in range(5):
        await asyncio.sleep(0)


async def test_each_stream_has_its_own_timeout(pending, now):
    first = asyncio.create_task(pending.wait_for_config(never))
    await settle()
    now[0] += 6.0
    second = asyncio.create_task(pending.wait_for_config(never))
    await settle()
    now[0] += 4.0
    pending.expire()
    await settle()
    assert len(pending) == 2, "the limit itself is not beyond it"
    now[0] += 0.1
    pending.expire()
    await settle()
    with pytest.raises(ConfigTimeout, match="within 10 s of the stream's opening"):
        await first
    assert not second.done()
    now[0] += 6.0
    pending.expire()
    with pytest.raises(ConfigTimeout):
        await second
    assert len(pending) == 0


async def test_config_in_time_is_returned(pending, now):
    message = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(pending.wait_for_config(lambda: message))
    await settle()
    now[0] += 9.9
    pending.expire()
    message.set_result(CONFIG)
    assert (await waiting).call_id == "x"
    assert len(pending) == 0


async def test_all_are_rejected_when_the_server_ends(pending):
    tasks = [asyncio.create_task(pending.wait_for_config(never)) for _ in range(3)]
    await settle()
    pending.reject_all(Draining())
    for task in tasks:
        with pytest.raises(Draining):
            await task


@pytest.mark.parametrize("first", [None, pb.StreamClassifyRequest(audio=pb.Audio())])
async def test_other_first_message_is_refused(pending, first):

    async def read():
        return first

    with pytest.raises(FailedPrecondition, match="first message"):
        await pending.wait_for_config(read)
    assert len(pending) == 0


async def test_broken_stream_is_removed(pending):
    waiting = asyncio.create_task(pending.wait_for_config(never))
    await settle()
    waiting.cancel()
    await asyncio.wait({waiting})
    assert waiting.cancelled()
    assert len(pending) == 0
