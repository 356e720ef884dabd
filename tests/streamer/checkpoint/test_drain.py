"""A server that shuts down migrates its calls."""

import asyncio

import pytest

from tests.streamer.checkpoint.replicas import (
    Code,
    config,
    only_call,
    resume,
    settled,
    uninterrupted,
)
from tests.streamer.in_process import until


async def test_drain_migrates_calls_with_checkpoints(here, there, chunks):
    final = await uninterrupted(here, chunks)
    plain = config(call_id="plain")
    plain.ClearField("checkpoint_interval")
    stays = await here.start(plain)
    await stays.send(chunks[:20])
    moving = []
    for number in range(4):
        stream = await here.start(config(call_id=f"call-{number}"))
        await stream.send(chunks[: 15 + number])
        moving.append(stream)
    await until(
        lambda: sum(c.messages for c in here.service.supervisor.calls) == 20 + 15 + 16 + 17 + 18
    )
    began, ends = asyncio.get_running_loop().time(), []

    async def outcome(stream):
        ended = await stream.outcome()
        ends.append(asyncio.get_running_loop().time() - began)
        return ended

    draining = asyncio.create_task(here.service.supervisor.drain(1.6))
    for ended in await asyncio.gather(*(outcome(stream) for stream in moving)):
        assert ended == (
            Code.UNAVAILABLE,
            "the server is shutting down; resume the call from its last checkpoint",
        )
    # Spread over the first half: 0, 0.2, 0.4, 0.6 s.
    ends.sort()
    assert ends[-1] < 1.2
    assert all(end > 0.2 * number - 0.02 for number, end in enumerate(ends))
    for number, stream in enumerate(moving):
        assert stream.kinds()[-1] == "checkpoint", "nothing comes behind it"
        assert stream.finals == []
        last = stream.responses[-1].checkpoint
        assert last.sequence == 15 + number
        on = await resume(there, last, chunks, call_id=f"call-{number}")
        assert on.finals == [final]
    assert not draining.done()
    await stays.send(chunks[20:], first=21)
    assert await stays.end() == (Code.OK, "")
    assert stays.finals == [final]
    await draining
    assert here.count('calls_total{reason="moved",status="UNAVAILABLE"}') == 4


async def test_finishing_call_completes_during_drain(here, chunks):
    """Half-closed, and its last blocks still with the student, when the server shuts down."""
    final = await uninterrupted(here, chunks)
    stream = await here.start(config())
    here.student.gate.clear()
    await stream.send(chunks)
    await stream.stream.done_writing()
    call = await only_call(here)
    await until(lambda: call.session.finishing)
    draining = asyncio.create_task(here.service.supervisor.drain(5.0))
    await asyncio.sleep(0.05)
    here.student.gate.set()
    assert await stream.outcome() == (Code.OK, "")
    assert stream.finals == [final]
    await draining


async def test_audio_during_migration_is_not_processed_twice(here, there, chunks):
    final = await uninterrupted(here, chunks)
    await settled(here)
    before = here.count("audio_seconds_total")
    stream = await here.start(config())
    here.student.gate.clear()
    await stream.send(chunks[:30])
    call = await only_call(here)
    await until(lambda: call.messages >= 30)
    draining = asyncio.create_task(here.service.supervisor.drain(5.0))
    await asyncio.sleep(0.05)
    await stream.send(chunks[30:40], first=31)  # the checkpoint is pending
    await asyncio.sleep(0.05)
    here.student.gate.set()
    assert (await stream.outcome())[0] is Code.UNAVAILABLE
    last = stream.responses[-1].checkpoint
    assert last.sequence == 30
    await draining
    assert here.count("audio_seconds_total") - before == pytest.approx(3.0)
    assert (await resume(there, last, chunks)).finals == [final]
    await settled(there)
    assert there.count("audio_seconds_total") == pytest.approx(3.0)
