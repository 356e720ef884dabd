"""A server that shuts down sends its calls away."""

import asyncio

import pytest

from tests.streamer.checkpoint.replicas import (
    Code,
    config,
    gone_on,
    only_call,
    settled,
    uninterrupted,
)


async def test_drain_sends_calls_with_checkpoints_away(here, there, chunks):
    final = await uninterrupted(here, chunks)
    plain = config(call_id="plain")
    plain.ClearField("checkpoint_interval")
    stays = await here.open(plain).begin()
    await stays.say(chunks[:20])
    moving = []
    for number in range(4):
        talk = await here.open(config(call_id=f"call-{number}")).begin()
        await talk.say(chunks[: 15 + number])
        moving.append(talk)
    for call in list(here.service.supervisor.calls):
        while call.session.audio_seconds < 1.5:
            await asyncio.sleep(0.005)
    while sum(call.messages for call in here.service.supervisor.calls) < 20 + 15 + 16 + 17 + 18:
        await asyncio.sleep(0.005)
    began, ends = asyncio.get_running_loop().time(), []

    async def outcome(talk):
        ended = await talk.outcome()
        ends.append(asyncio.get_running_loop().time() - began)
        return ended

    draining = asyncio.create_task(here.service.supervisor.drain(1.6))
    for ended in await asyncio.gather(*(outcome(talk) for talk in moving)):
        assert ended == (
            Code.UNAVAILABLE,
            "the server is shutting down; resume the call from its last checkpoint",
        )
    # Spread over the first half: 0, 0.2, 0.4, 0.6 s.
    ends.sort()
    assert ends[-1] < 1.2
    assert all(end > 0.2 * number - 0.02 for number, end in enumerate(ends))
    for number, talk in enumerate(moving):
        assert talk.kinds()[-1] == "checkpoint", "nothing comes behind it"
        assert talk.finals == []
        last = talk.responses[-1].checkpoint
        assert last.sequence == 15 + number
        on = await gone_on(there, last, chunks, call_id=f"call-{number}")
        assert on.finals == [final]
    assert not draining.done()
    await stays.say(chunks[20:], first=21)
    assert await stays.end() == (Code.OK, "")
    assert stays.finals == [final]
    await draining
    assert here.count('calls_total{reason="moved",status="UNAVAILABLE"}') == 4


async def test_drain_of_a_call_that_has_heard_nothing(here, there, chunks):
    final = await uninterrupted(here, chunks)
    talk = await here.open(config()).begin()
    await talk.until("started")
    await here.service.supervisor.drain(5.0)
    assert (await talk.outcome())[0] is Code.UNAVAILABLE
    assert talk.kinds() == ["started"]
    assert (await uninterrupted(there, chunks)) == final


async def test_call_that_ends_while_it_is_sent_away_ends_well(here, chunks):
    """Half-closed, and its last blocks still with the student, when the server is told to stop."""
    final = await uninterrupted(here, chunks)
    talk = await here.open(config()).begin()
    here.student.gate.clear()
    await talk.say(chunks)
    await talk.stream.done_writing()
    call = await only_call(here)
    while not call.session.finishing:
        await asyncio.sleep(0.005)
    draining = asyncio.create_task(here.service.supervisor.drain(5.0))
    await asyncio.sleep(0.05)
    here.student.gate.set()
    assert await talk.outcome() == (Code.OK, "")
    assert talk.finals == [final]
    await draining


async def test_audio_that_comes_while_a_call_is_sent_away_is_not_heard_twice(here, there, chunks):
    final = await uninterrupted(here, chunks)
    await settled(here)
    before = here.count("audio_seconds_total")
    talk = await here.open(config()).begin()
    here.student.gate.clear()
    await talk.say(chunks[:30])
    call = await only_call(here)
    while call.messages < 30:
        await asyncio.sleep(0.005)
    draining = asyncio.create_task(here.service.supervisor.drain(5.0))
    await asyncio.sleep(0.05)
    await talk.say(chunks[30:40], first=31)  # the student has yet to come to the checkpoint
    await asyncio.sleep(0.05)
    here.student.gate.set()
    assert (await talk.outcome())[0] is Code.UNAVAILABLE
    last = talk.responses[-1].checkpoint
    assert last.sequence == 30
    await draining
    assert here.count("audio_seconds_total") - before == pytest.approx(3.0)
    assert (await gone_on(there, last, chunks)).finals == [final]
    await settled(there)
    assert there.count("audio_seconds_total") == pytest.approx(3.0)
