"""The queue between a call and its stream."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from streamer.call.responses import ResponseQueue
from streamer.rpc import voicecohort_pb2 as pb
from streamer.session.events import Update


def update(channel, sequence):
    return Update(
        channel=channel,
        sequence=sequence,
        audio_seconds=0.0,
        speech_seconds=0.0,
        lost_seconds=0.0,
        posteriors=None,
        final=False,
        received=0.0,
    )


async def everything(unsent):
    unsent.complete()
    found = []
    while (item := await unsent.next()) is not None:
        found.append(item)
    return found


def test_what_is_queued_comes_in_order_and_then_nothing(run_async):
    async def scenario():
        unsent = ResponseQueue()
        responses = [pb.StreamClassifyResponse() for _ in range(3)]
        for response in responses:
            unsent.put(response)
        assert len(unsent) == 3
        found = await everything(unsent)
        assert all(a is b for a, b in zip(found, responses, strict=True))
        assert await unsent.next() is None, "and it stays so"

    run_async(scenario())


def test_who_waits_is_woken_by_the_next_and_by_the_end(run_async):
    async def scenario():
        unsent = ResponseQueue()
        first = asyncio.create_task(unsent.next())
        await asyncio.sleep(0)
        assert not first.done()
        unsent.put(item := update(0, 1))
        assert await first is item
        last = asyncio.create_task(unsent.next())
        await asyncio.sleep(0)
        assert not last.done()
        unsent.complete()
        assert await last is None

    run_async(scenario())


@given(st.lists(st.integers(0, 3), max_size=30))
def test_of_a_channel_only_the_newest_waits(channels):
    async def scenario():
        unsent = ResponseQueue()
        for sequence, channel in enumerate(channels):
            unsent.drop(lambda old: old.channel == channel)  # noqa: B023 - called at once
            unsent.put(update(channel, sequence))
        assert len(unsent) == len(set(channels))
        newest = {channel: sequence for sequence, channel in enumerate(channels)}
        found = [(item.channel, item.sequence) for item in await everything(unsent)]
        assert found == sorted(newest.items(), key=lambda pair: pair[1])

    asyncio.run(scenario())
