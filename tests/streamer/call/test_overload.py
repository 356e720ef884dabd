"""A server that is behind refuses new calls and predicts less often; running calls go on."""

import asyncio
from itertools import pairwise

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from tests.streamer.wire import Code, config, sound

LATE, LONG = 1.0, 30.0
"""A second behind for half a minute: the average has followed."""


async def opened(local, **fields):
    stream = local.stub.StreamClassify(timeout=30)
    await stream.write(config(update_interval=Duration(nanos=200_000_000), **fields))
    assert (await stream.read()).WhichOneof("message") == "started"
    return stream


async def predictions(stream, first, count):
    """Sequences that predictions acknowledge among ``count`` chunks of 100 ms; ends the call."""
    for number in range(first, first + count):
        await stream.write(sound(number))
    await stream.done_writing()
    seen = []
    while (response := await stream.read()) is not grpc.aio.EOF:
        seen.append(response.prediction)
    assert seen[-1].final
    assert seen[-1].sequence == first + count - 1
    return [prediction.sequence for prediction in seen if not prediction.final]


async def received(call, seconds):
    """Wait until so much of its audio has come."""
    while call.session.audio_seconds < seconds:
        await asyncio.sleep(0.001)


async def ended(stream):
    """Finish a call and read what is left."""
    await stream.done_writing()
    while await stream.read() is not grpc.aio.EOF:
        pass


@pytest.mark.parametrize(
    ("late", "busy", "reason"),
    [
        (LATE, 0.5, "1 s behind, limit 0.1 s"),
        (0.0, 0.97, "live calls take 97% of the CPU, limit 90%"),
    ],
)
async def test_full_server_refuses_new_calls_only(local, late, busy, reason):
    running = await opened(local)
    local.service.supervisor.record_load(late, busy, LONG)
    code, details, _ = await local.outcome(config())
    assert (code, details) == (Code.RESOURCE_EXHAUSTED, f"the server is full: {reason}")
    await predictions(running, 1, 5)
    assert await running.code() is Code.OK
    local.service.supervisor.record_load(0.0, 0.5, LONG)
    assert (await local.outcome(config()))[0] is Code.OK


@pytest.mark.parametrize(
    ("late", "busy", "least"), [(0.0, 0.5, 2), (0.03, 0.9, 2), (0.07, 0.5, 4), (LATE, 0.5, 8)]
)
async def test_load_lengthens_the_update_interval(local, late, busy, least):
    stream = await opened(local)
    local.service.supervisor.record_load(late, busy, LONG)
    sequences = await predictions(stream, 1, 40)
    # The first interval was set before the delay was known.
    steps = [b - a for a, b in pairwise(sequences[1:])]
    assert steps
    assert min(steps) == least


async def test_files_do_not_fill_a_server(local):
    stream = await opened(local)
    local.service.supervisor.record_load(0.0, 1.0, LONG)
    assert (await local.outcome(config()))[0] is Code.RESOURCE_EXHAUSTED
    for number in range(1, 41):
        await stream.write(sound(number))
    (call,) = local.service.supervisor.calls
    await received(call, 4.0)
    local.service.supervisor.record_load(0.0, 1.0, 1.0)  # four seconds came at once
    assert (await local.outcome(config()))[0] is Code.OK
    await ended(stream)


async def test_late_live_calls_fill_a_server(local):
    """Two seconds that they had spoken before come at once, then no more than they speak."""
    stream = await opened(local)
    (call,) = local.service.supervisor.calls
    for number in range(1, 41):
        await stream.write(sound(number))
        await received(call, (number - 0.5) * 0.1)
        if number >= 20:
            local.service.supervisor.record_load(0.0, 1.0, 0.1)
    assert (await local.outcome(config()))[0] is Code.RESOURCE_EXHAUSTED
    await ended(stream)
