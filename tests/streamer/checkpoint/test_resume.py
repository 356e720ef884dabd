"""A call resumes on another server, on one stream at a time."""

import asyncio
from types import SimpleNamespace

import pytest

from streamer.inference.engine import Engine
from streamer.inference.registry import ServedModel
from tests.streamer.checkpoint.replicas import (
    CHUNK,
    Code,
    config,
    interrupted,
    resume,
    resuming,
    settled,
    uninterrupted,
)
from tests.streamer.wire import RATE


@pytest.mark.parametrize("received", [10, 30, 59])
async def test_resumed_call_has_the_same_predictions(here, there, chunks, received):
    final = await uninterrupted(here, chunks)
    before = there.count("audio_seconds_total")
    checkpoint = await interrupted(here, chunks, received)
    assert checkpoint.sequence == received // 10 * 10
    stream = await there.start(resuming(checkpoint))
    assert (await stream.until("started")).call_id == "call-1"
    fresh = await stream.until("checkpoint")
    assert stream.kinds() == ["started", "checkpoint"]
    assert fresh.sequence == checkpoint.sequence
    assert fresh.data != checkpoint.data
    # Two messages more than it must, and then the rest.
    await stream.send(chunks[checkpoint.sequence - 2 :], first=checkpoint.sequence - 1)
    assert await stream.end() == (Code.OK, "")
    assert stream.finals == [final]
    assert there.count("calls_resumed_total") == 1
    assert here.count("calls_resumed_total") == 0
    await settled(there)
    rest = (60 - checkpoint.sequence) * CHUNK / RATE
    assert there.count("audio_seconds_total") - before == pytest.approx(rest)
    assert there.count("speech_seconds_total") < rest
    assert there.count('decisions_total{label="undecided",task="gender"}') <= 1


async def test_call_resumes_many_times(make, chunks):
    """A nameless one, each time under the name that the first server gave it or under none."""
    two = [await make(), await make()]
    final = await uninterrupted(two[0], chunks)
    stream = await two[0].start(config(call_id=""))
    name = (await stream.until("started")).call_id
    for turn in range(5):
        await stream.send(chunks[turn * 10 : turn * 10 + 10], first=turn * 10 + 1)
        checkpoint = await stream.checkpoint(turn * 10 + 10)
        stream.stream.cancel()
        call_id = "" if turn % 2 else name
        stream = await two[turn % 2].start(resuming(checkpoint, call_id=call_id))
        assert (await stream.until("started")).call_id == name
    await stream.send(chunks[50:], first=51)
    assert await stream.end() == (Code.OK, "")
    assert stream.finals == [final]


async def test_older_checkpoint_resumes(here, there, chunks):
    final = await uninterrupted(here, chunks)
    stream = await here.start(config())
    await stream.send(chunks[:20])
    older = await stream.checkpoint(20)
    await stream.send(chunks[20:40], first=21)
    await stream.checkpoint(40)
    stream.stream.cancel()
    assert (await resume(there, older, chunks)).finals == [final]


async def test_resumed_call_keeps_its_model(here, chunks, make_student):
    """The model was changed meanwhile: new calls have the new one."""
    final = await uninterrupted(here, chunks)
    checkpoint = await interrupted(here, chunks, 30)
    newer = make_student()
    newer.metadata = newer.metadata.model_copy(update={"model_id": "newer"})
    newer.digest = "bb" * 32
    model = ServedModel.of(Engine(newer, asyncio.get_running_loop().call_soon_threadsafe))
    here.models._source = SimpleNamespace(digest=lambda: newer.digest, load=lambda: model)
    await here.models.reload()
    assert here.models.current is model
    stream = await resume(here, checkpoint, chunks)
    assert stream.finals == [final]
    assert stream.responses[0].started.model.model_id == "fake-1"
    fresh = await here.start(config())
    assert (await fresh.until("started")).model.model_id == "newer"
    fresh.stream.cancel()
    await asyncio.to_thread(model.engine.stop)


async def test_open_stream_is_taken_over(here, chunks):
    final = await uninterrupted(here, chunks)
    old = await here.start(config())
    await old.send(chunks[:30])
    checkpoint = await old.checkpoint(30)
    new = await here.start(resuming(checkpoint))
    assert await old.outcome() == (
        Code.ABORTED,
        "the call was taken over by a stream that resumed it",
    )
    assert old.finals == []
    await new.send(chunks[30:], first=31)
    assert await new.end() == (Code.OK, "")
    assert new.finals == [final]
    await settled(here)
    assert here.count('calls_total{reason="taken_over",status="ABORTED"}') == 1


async def test_complete_call_cannot_be_resumed(here, clock, chunks):
    stream = await here.start(config())
    await stream.send(chunks[:30])
    checkpoint = await stream.checkpoint(30)
    assert (await stream.end())[0] is Code.OK
    await settled(here)
    again = await here.start(resuming(checkpoint))
    assert await again.outcome() == (
        Code.FAILED_PRECONDITION,
        "config.resume_from: it is used up: the call has had its final predictions",
    )
    clock.now += 400.0
    again = await here.start(resuming(checkpoint))
    assert (await again.outcome())[0] is Code.INVALID_ARGUMENT, "too old by now"


async def test_idle_call_can_be_resumed(make, clock, chunks):
    here = await make(idle_timeout=50.0)
    final = await uninterrupted(here, chunks)
    stream = await here.start(config())
    await stream.send(chunks[:30])
    checkpoint = await stream.checkpoint(30)
    clock.now += 51.0
    here.service.supervisor.sweep()
    assert (await stream.outcome())[0] is Code.DEADLINE_EXCEEDED
    assert (await resume(here, checkpoint, chunks)).finals == [final]
