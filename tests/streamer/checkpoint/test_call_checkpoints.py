"""Checkpoints of a running call."""

import asyncio

from google.protobuf.duration_pb2 import Duration

from streamer.rpc import voicecohort_pb2 as pb
from tests.streamer.checkpoint.replicas import Code, config, gone_on, uninterrupted


async def test_checkpoints_come_with_the_audio(here, chunks):
    talk = await here.open(config(checkpoint_interval=Duration(seconds=2))).begin()
    started = await talk.until("started")
    assert started.limits.checkpoints
    for first in range(0, 60, 20):
        await talk.say(chunks[first : first + 20], first=first + 1)
        assert (await talk.until("checkpoint")).sequence == first + 20
    assert (await talk.end())[0] is Code.OK
    assert talk.kinds() == ["started", *["checkpoint"] * 3, "prediction"]
    assert here.count("checkpoints_total") == here.count("checkpoint_bytes_count") == 3
    sent = sum(len(r.checkpoint.data) for r in talk.responses)
    assert here.count("checkpoint_bytes_sum") == sent > 3 * 736


async def test_no_checkpoints_unless_asked_for(here, chunks):
    wanted = config()
    wanted.ClearField("checkpoint_interval")
    talk = await here.open(wanted).begin()
    await talk.say(chunks)
    await talk.end()
    assert set(talk.kinds()) == {"started", "prediction"}
    assert talk.responses[0].started.limits.checkpoints


async def test_call_on_which_nothing_is_said_keeps_a_fresh_checkpoint(here, there, clock, chunks):
    nothing = pb.StreamClassifyRequest(control=pb.Control(resume=pb.Resume()))
    final = await uninterrupted(here, chunks)
    talk = await here.open(config()).begin()
    await talk.say(chunks[:10])
    old = await talk.until("checkpoint")
    before = here.count("checkpoints_total")
    for turn in range(1, 4):
        clock.now += 99.0
        here.service.supervisor.sweep()
        await talk.stream.write(nothing)  # so that the call is not idle
        await asyncio.sleep(0.02)
        assert here.count("checkpoints_total") == before + turn - 1
        clock.now += 2.0
        here.service.supervisor.sweep()
        fresh = await talk.until("checkpoint")
        here.service.supervisor.sweep()
    assert fresh.sequence == old.sequence == 10
    talk.stream.cancel()
    stale = await gone_on(there, old, chunks)
    assert await stale.stream.code() is Code.INVALID_ARGUMENT
    resumed = await gone_on(there, fresh, chunks)
    assert resumed.finals == [final]
