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


async def test_a_server_that_is_behind_refuses_new_calls_only(local):
    running = await opened(local)
    local.service.supervisor.record_load(LATE, 0.5, LONG)
    code, details, _ = await local.outcome(config())
    assert code is Code.RESOURCE_EXHAUSTED
    assert details == "the server is full: 1 s behind, limit 0.1 s"
    await predictions(running, 1, 5)
    assert await running.code() is Code.OK
    local.service.supervisor.record_load(0.0, 0.5, LONG)
    assert (await local.outcome(config()))[0] is Code.OK


async def test_a_refusal_says_when_to_try_again(local):
    local.service.supervisor.record_load(LATE, 0.5, LONG)
    stream = local.stub.StreamClassify(iter([config()]), timeout=30)
    assert await stream.code() is Code.RESOURCE_EXHAUSTED
    keys = [key for key, _ in await stream.trailing_metadata()]
    assert "grpc-status-details-bin" in keys


@pytest.mark.parametrize(
    ("late", "busy", "least"), [(0.0, 0.5, 2), (0.03, 0.9, 2), (0.07, 0.5, 4), (LATE, 0.5, 8)]
)
async def test_predictions_come_less_often_the_more_it_has_to_do(local, late, busy, least):
    stream = await opened(local)
    local.service.supervisor.record_load(late, busy, LONG)
    sequences = await predictions(stream, 1, 40)
    # The first interval was set before the delay was known.
    steps = [b - a for a, b in pairwise(sequences[1:])]
    assert steps
    assert min(steps) == least


async def test_files_streamed_faster_than_speech_do_not_fill_a_server(local):
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


async def test_live_calls_that_a_busy_server_began_late_fill_it(local):
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


async def test_a_server_without_cpu_time_left_refuses_before_it_is_behind(local):
    local.service.supervisor.record_load(0.0, 0.97, LONG)
    code, details, _ = await local.outcome(config())
    assert code is Code.RESOURCE_EXHAUSTED
    assert details == "the server is full: live calls take 97% of the CPU, limit 90%"
