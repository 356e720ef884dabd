"""The queue between a call and its stream."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from streamer.call.responses import ResponseQueue
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


async def everything(queue):
    queue.close()
    found = []
    while (item := await queue.next()) is not None:
        found.append(item)
    return found


async def test_next_waits_for_a_response_or_the_end():
    queue = ResponseQueue()
    first = asyncio.create_task(queue.next())
    await asyncio.sleep(0)
    assert not first.done()
    queue.append(item := update(0, 1))
    assert await first is item
    last = asyncio.create_task(queue.next())
    await asyncio.sleep(0)
    assert not last.done()
    queue.close()
    assert await last is None
    assert await queue.next() is None, "the queue stays closed"


@given(st.lists(st.integers(0, 3), max_size=30))
def test_newer_prediction_replaces_the_older(channels):
    async def scenario():
        queue = ResponseQueue()
        for sequence, channel in enumerate(channels):
            queue.remove_first(lambda old: old.channel == channel)  # noqa: B023 - called at once
            queue.append(update(channel, sequence))
        assert len(queue) == len(set(channels))
        newest = {channel: sequence for sequence, channel in enumerate(channels)}
        found = [(item.channel, item.sequence) for item in await everything(queue)]
        assert found == sorted(newest.items(), key=lambda pair: pair[1])

    asyncio.run(scenario())
