"""A call goes on elsewhere as if nothing had been, on one stream at a time."""

import asyncio
from types import SimpleNamespace

import pytest

from streamer.inference.engine import Engine
from streamer.inference.registry import ServedModel
from tests.streamer.checkpoint.replicas import (
    CHUNK,
    RATE,
    Code,
    broken_off,
    config,
    gone_on,
    resuming,
    settled,
    uninterrupted,
)


@pytest.mark.parametrize("received", [10, 30, 59])
async def test_call_that_lost_its_server_ends_as_if_it_had_not(here, there, chunks, received):
    final = await uninterrupted(here, chunks)
    before = there.count("audio_seconds_total")
    checkpoint = await broken_off(here, chunks, received)
    assert checkpoint.sequence == received // 10 * 10
    talk = await there.open(resuming(checkpoint)).begin()
    assert (await talk.until("started")).call_id == "call-1"
    fresh = await talk.until("checkpoint")
    assert talk.kinds() == ["started", "checkpoint"]
    assert fresh.sequence == checkpoint.sequence
    assert fresh.data != checkpoint.data
    # Two messages more than it must, and then the rest.
    await talk.say(chunks[checkpoint.sequence - 2 :], first=checkpoint.sequence - 1)
    assert await talk.end() == (Code.OK, "")
    assert talk.finals == [final]
    assert there.count("calls_resumed_total") == 1
    assert here.count("calls_resumed_total") == 0
    await settled(there)
    rest = (60 - checkpoint.sequence) * CHUNK / RATE
    assert there.count("audio_seconds_total") - before == pytest.approx(rest)
    assert there.count("speech_seconds_total") < rest
    assert there.count('decisions_total{label="undecided",task="gender"}') <= 1


async def test_call_goes_on_again_and_again(make, chunks):
    """A nameless one, each time under the name that the first server gave it or under none."""
    two = [await make(), await make()]
    final = await uninterrupted(two[0], chunks)
    talk = await two[0].open(config(call_id="")).begin()
    name = (await talk.until("started")).call_id
    for turn in range(5):
        await talk.say(chunks[turn * 10 : turn * 10 + 10], first=turn * 10 + 1)
        checkpoint = await talk.checkpoint(turn * 10 + 10)
        talk.stream.cancel()
        call_id = "" if turn % 2 else name
        talk = await two[turn % 2].open(resuming(checkpoint, call_id=call_id)).begin()
        assert (await talk.until("started")).call_id == name
    await talk.say(chunks[50:], first=51)
    assert await talk.end() == (Code.OK, "")
    assert talk.finals == [final]


async def test_older_checkpoint_does_as_well(here, there, chunks):
    final = await uninterrupted(here, chunks)
    talk = await here.open(config()).begin()
    await talk.say(chunks[:20])
    older = await talk.checkpoint(20)
    await talk.say(chunks[20:40], first=21)
    await talk.checkpoint(40)
    talk.stream.cancel()
    assert (await gone_on(there, older, chunks)).finals == [final]


async def test_call_goes_on_with_its_own_model_while_that_is_here(here, chunks, make_student):
    """The model was changed meanwhile: new calls have the new one."""
    final = await uninterrupted(here, chunks)
    checkpoint = await broken_off(here, chunks, 30)
    newer = make_student()
    newer.metadata = newer.metadata.model_copy(update={"model_id": "newer"})
    newer.digest = "bb" * 32
    model = ServedModel.of(Engine(newer, asyncio.get_running_loop().call_soon_threadsafe))
    here.models._source = SimpleNamespace(digest=lambda: newer.digest, load=lambda: model)
    await here.models.reload()
    assert here.models.current is model
    talk = await gone_on(here, checkpoint, chunks)
    assert talk.finals == [final]
    assert talk.responses[0].started.model.model_id == "fake-1"
    fresh = await here.open(config()).begin()
    assert (await fresh.until("started")).model.model_id == "newer"
    fresh.stream.cancel()
    await asyncio.to_thread(model.engine.stop)


# --- one call, one stream ---


async def test_stream_that_is_still_open_is_taken_over(here, chunks):
    final = await uninterrupted(here, chunks)
    old = await here.open(config()).begin()
    await old.say(chunks[:30])
    checkpoint = await old.checkpoint(30)
    new = await here.open(resuming(checkpoint)).begin()
    assert await old.outcome() == (
        Code.ABORTED,
        "the call was taken over by a stream that resumed it",
    )
    assert old.finals == []
    await new.say(chunks[30:], first=31)
    assert await new.end() == (Code.OK, "")
    assert new.finals == [final]
    await settled(here)
    assert here.count('calls_total{reason="taken_over",status="ABORTED"}') == 1


async def test_call_that_has_ended_well_is_used_up(here, clock, chunks):
    talk = await here.open(config()).begin()
    await talk.say(chunks[:30])
    checkpoint = await talk.checkpoint(30)
    assert (await talk.end())[0] is Code.OK
    await settled(here)
    again = await here.open(resuming(checkpoint)).begin()
    assert await again.outcome() == (
        Code.FAILED_PRECONDITION,
        "config.resume_from: it is used up: the call has had its final predictions",
    )
    clock.now += 400.0
    again = await here.open(resuming(checkpoint)).begin()
    assert (await again.outcome())[0] is Code.INVALID_ARGUMENT, "too old by now"


async def test_call_that_ended_badly_may_go_on(make, clock, chunks):
    here = await make(idle_timeout=50.0)
    final = await uninterrupted(here, chunks)
    talk = await here.open(config()).begin()
    await talk.say(chunks[:30])
    checkpoint = await talk.checkpoint(30)
    clock.now += 51.0
    here.service.supervisor.sweep()
    assert (await talk.outcome())[0] is Code.DEADLINE_EXCEEDED
    assert (await gone_on(here, checkpoint, chunks)).finals == [final]
