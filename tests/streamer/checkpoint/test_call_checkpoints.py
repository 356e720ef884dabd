"""Checkpoints of a running call."""

import asyncio

from google.protobuf.duration_pb2 import Duration

from streamer.rpc import voicecohort_pb2 as pb
from tests.streamer.checkpoint.replicas import Code, config, resume, uninterrupted


async def test_checkpoints_come_with_the_audio(here, chunks):
    stream = await here.start(config(checkpoint_interval=Duration(seconds=2)))
    started = await stream.until("started")
    assert started.limits.checkpoints
    for first in range(0, 60, 20):
        await stream.send(chunks[first : first + 20], first=first + 1)
        assert (await stream.until("checkpoint")).sequence == first + 20
    assert (await stream.end())[0] is Code.OK
    assert stream.kinds() == ["started", *["checkpoint"] * 3, "prediction"]
    assert here.count("checkpoints_total") == here.count("checkpoint_bytes_count") == 3
    sent = sum(len(r.checkpoint.data) for r in stream.responses)
    assert here.count("checkpoint_bytes_sum") == sent > 3 * 736


async def test_checkpoints_are_optional(here, chunks):
    plain = config()
    plain.ClearField("checkpoint_interval")
    stream = await here.start(plain)
    await stream.send(chunks)
    await stream.end()
    assert set(stream.kinds()) == {"started", "prediction"}
    assert stream.responses[0].started.limits.checkpoints


async def test_call_without_audio_has_fresh_checkpoints(here, there, clock, chunks):
    nothing = pb.StreamClassifyRequest(control=pb.Control(resume=pb.Resume()))
    final = await uninterrupted(here, chunks)
    stream = await here.start(config())
    await stream.send(chunks[:10])
    old = await stream.until("checkpoint")
    before = here.count("checkpoints_total")
    for turn in range(1, 4):
        clock.now += 99.0
        here.service.supervisor.sweep()
        await stream.stream.write(nothing)  # so that the call is not idle
        await asyncio.sleep(0.02)
        assert here.count("checkpoints_total") == before + turn - 1
        clock.now += 2.0
        here.service.supervisor.sweep()
        fresh = await stream.until("checkpoint")
        here.service.supervisor.sweep()
    assert fresh.sequence == old.sequence == 10
    stream.stream.cancel()
    stale = await resume(there, old, chunks)
    assert await stale.stream.code() is Code.INVALID_ARGUMENT
    resumed = await resume(there, fresh, chunks)
    assert resumed.finals == [final]
