"""Every limit of time over real gRPC, by a clock that the test sets: nothing here waits for one."""

import asyncio

import grpc
import numpy as np
import pytest
from structlog.testing import CapturingLogger

from streamer import service
from tests.streamer.in_process import Context, until
from tests.streamer.wire import LINEAR, RATE, Code, config, seconds, sound


@pytest.fixture
def loud():
    """A second of what the gate takes for speech."""
    noise = np.random.default_rng(0).integers(-9000, 9000, RATE).astype("<i2").tobytes()
    return [
        sound(n, noise[start : start + 3200]) for n, start in enumerate(range(0, 16000, 3200), 1)
    ]


class Clock:
    """Sweeps as the server does, once a second of its own time."""

    def __init__(self, local):
        self.now = 1000.0
        self._local = local
        local.clock = lambda: self.now

    async def run(self, passed):
        """So many whole seconds go by; what the sweeps decide is done."""
        for _ in range(passed):
            self.now += 1.0
            self._local.service.supervisor.sweep()
        await asyncio.sleep(0.05)


async def opened(local, *requests):
    stream = local.stub.StreamClassify(timeout=30)
    for request in requests:
        await stream.write(request)
    assert (await stream.read()).HasField("started")
    messages = len(requests) - 1
    await until(lambda: any(call.messages == messages for call in local.service.supervisor.calls))
    return stream


async def ended(stream):
    """Predictions and status of a stream that the server ends, and its retry delay if any."""
    read = []
    while True:
        try:
            response = await stream.read()
        except grpc.aio.AioRpcError:
            break
        if response is grpc.aio.EOF:
            break
        read.append(response.prediction)
    retry = [k for k, _ in await stream.trailing_metadata() if k == "grpc-status-details-bin"]
    return read, await stream.code(), await stream.details(), bool(retry)


def counted(local, name, *labels):
    keys = dict(zip(("status", "reason"), labels, strict=True))
    return local.metrics.registry.get_sample_value(f"voicecohort_{name}_total", keys)


@pytest.mark.parametrize("options", [{"max_calls": 1}])
async def test_stream_without_config_is_ended(local):
    clock = Clock(local)
    mute = local.stub.StreamClassify(timeout=30)
    await mute.wait_for_connection()
    await until(lambda: len(local.service._pending))
    clock.now += 9.5
    local.service.supervisor.sweep()
    assert (await local.outcome(config()))[0] is Code.RESOURCE_EXHAUSTED
    await clock.run(1)
    read, code, details, _ = await ended(mute)
    assert (read, code) == ([], Code.DEADLINE_EXCEEDED)
    assert details == "config: it did not come within 10 s of the stream's opening"
    assert (await local.outcome(config()))[0] is Code.OK
    assert counted(local, "refusals", "DEADLINE_EXCEEDED", "config") == 1
    assert counted(local, "refusals", "RESOURCE_EXHAUSTED", "calls") == 1


@pytest.mark.parametrize("options", [{"max_call_seconds": 3600.0}])
async def test_long_call_ends_with_final_predictions(local):
    clock = Clock(local)
    stream = await opened(local, config(), sound(1))
    clock.now += 3599.0
    local.service.supervisor.calls.copy().pop().last_message = clock.now
    await clock.run(1)
    assert not stream.done()
    await clock.run(1)
    read, code, details, retry = await ended(stream)
    assert [(p.final, p.sequence) for p in read] == [(True, 1)]
    assert code is Code.RESOURCE_EXHAUSTED
    assert details == "call length: 3600 s, the most that a call may last, are over"
    assert not retry, "the next call may come at once"
    assert counted(local, "calls", "RESOURCE_EXHAUSTED", "length") == 1


async def test_lag_of_a_live_call_is_limited(local, loud):
    clock = Clock(local)
    local.student.gate.clear()
    stream = await opened(local, LINEAR)
    clock.now += 1.0  # as old as the audio that it sends
    for request in loud:
        await stream.write(request)
    await until(lambda: [call.messages for call in local.service.supervisor.calls] == [5])
    await clock.run(11)
    assert not stream.done(), "10 s since the first look"
    await clock.run(1)
    read, code, details, retry = await ended(stream)
    assert read == []
    assert code is Code.RESOURCE_EXHAUSTED
    assert details == "audio lag: 11 s exceeds the limit of 10 s"
    assert retry
    assert counted(local, "calls", "RESOURCE_EXHAUSTED", "lag") == 1
    assert local.service._admission.held == {}


async def test_predictions_are_sent_before_the_status(local, loud):
    clock = Clock(local)
    stream = await opened(local, LINEAR, *loud)
    clock.now += 1.0
    await until(lambda: all(c.session.backlog.blocks == 0 for c in local.service.supervisor.calls))
    local.student.gate.clear()
    await stream.write(sound(6, loud[0].audio.data))
    await stream.write(sound(7, loud[0].audio.data))
    await until(lambda: all(c.session.backlog.blocks for c in local.service.supervisor.calls))
    await clock.run(13)
    read, code, _, _ = await ended(stream)
    assert code is Code.RESOURCE_EXHAUSTED
    assert read
    assert not any(prediction.final for prediction in read)
    assert max(seconds(prediction.audio_time) for prediction in read) == 1.0


@pytest.mark.parametrize("grows", [True, False])
async def test_lag_that_grows_ends_the_call(local, grows):
    """Of six blocks a second the model completes five, or all after 8 s."""
    clock = Clock(local)
    stream = await opened(local, LINEAR)
    (call,) = local.service.supervisor.calls
    (channel,) = call.session._channels.values()
    for second in range(100 if grows else 60):
        channel.submitted = 6 * (second + 1)
        channel.completed = 5 * second if grows else max(0, 6 * (second - 8))
        call.last_message = clock.now
        assert grows or call.lag(clock.now) < 10
        await clock.run(1)
        if call.stopped.done():
            break
    assert call.stopped.done() == grows
    if grows:
        assert 60 <= second < 80
        assert (await ended(stream))[2].startswith("audio lag: ")


async def test_file_faster_than_speech_may_lag(local, loud):
    clock = Clock(local)
    local.student.gate.clear()
    silence = [sound(n, bytes(160_000)) for n in range(6, 36)]  # 300 s at once
    stream = await opened(local, LINEAR, *loud, *silence)
    await clock.run(60)
    assert not stream.done()
    local.student.gate.set()
    await stream.done_writing()
    read, code, _, _ = await ended(stream)
    assert (code, read[-1].final) == (Code.OK, True)


async def test_half_closed_call_on_a_stuck_model_is_ended(local, loud):
    clock = Clock(local)
    local.student.gate.clear()
    live = await opened(local, LINEAR, *loud)
    await live.done_writing()
    (call,) = local.service.supervisor.calls
    await until(lambda: call.reading_stopped_at is not None)
    await clock.run(13)
    read, code, details, retry = await ended(live)
    assert (read, code, retry) == ([], Code.RESOURCE_EXHAUSTED, True)
    assert details.startswith("audio lag: ")
    silence = [sound(n, bytes(160_000)) for n in range(6, 66)]  # 600 s at once
    file = await opened(local, LINEAR, *loud, *silence)
    await file.done_writing()
    (call,) = local.service.supervisor.calls
    await until(lambda: call.reading_stopped_at is not None)
    await clock.run(300)
    assert not file.done()
    await clock.run(2)
    read, code, _, _ = await ended(file)
    assert (read, code) == ([], Code.RESOURCE_EXHAUSTED)
    assert local.service._admission.held == {}


async def test_gateway_that_does_not_read_is_ended(local):
    """Also one that does not even take `started`, as a hostile one can arrange."""
    clock = Clock(local)
    context = Context(config())
    task = asyncio.create_task(local.service.StreamClassify(None, context))
    await until(
        lambda: any(c.reading_stopped_at is not None for c in local.service.supervisor.calls)
    )
    assert local.service._admission.held == {"192.0.2.1": 1}
    await clock.run(300)
    assert not task.done()
    await clock.run(1)
    await task
    code, details, _ = context.aborted
    assert code is Code.DEADLINE_EXCEEDED
    assert details == "the last responses were not read for 300 s"
    assert local.service._admission.held == {}
    assert counted(local, "calls", "DEADLINE_EXCEEDED", "unread") == 1


async def test_unread_status_is_abandoned(local, monkeypatch):
    class NeverAborted(Context):
        async def abort(self, *status):
            self.aborted = status
            await asyncio.Event().wait()

    clock = Clock(local)
    context = NeverAborted(config(sample_rate=4711))
    task = asyncio.create_task(local.service.StreamClassify(None, context))
    await until(lambda: context.aborted)
    assert context.aborted[0] is Code.INVALID_ARGUMENT
    logger = CapturingLogger()
    monkeypatch.setattr(service, "log", logger)
    await clock.run(4)
    assert not task.done()
    await clock.run(1)
    await task
    assert logger.calls == [("warning", ("status_unread",), {"status": "INVALID_ARGUMENT"})]
    assert local.service.supervisor.open_streams == 0
    assert counted(local, "refusals", "INVALID_ARGUMENT", "invalid") == 1


async def test_blocks_of_a_failed_call_are_no_lag(local, loud):
    """Its gateway has as long to read as any other."""
    clock = Clock(local)
    local.student.gate.clear()
    context = Context(LINEAR, *loud, loud[0])
    task = asyncio.create_task(local.service.StreamClassify(None, context))
    await until(
        lambda: any(c.reading_stopped_at is not None for c in local.service.supervisor.calls)
    )
    await clock.run(300)
    assert not task.done()
    await clock.run(1)
    await task
    assert context.aborted[:2] == (
        Code.INVALID_ARGUMENT,
        "audio.sequence: 1 is not valid; it must rise; the last was 5",
    )


@pytest.mark.parametrize("options", [{"max_calls_per_identity": 1}])
async def test_share_of_one_address_is_limited(local):
    """Over the wire both come from one address: the share is that address's."""
    first = await opened(local, config())
    code, details, _ = await local.outcome(config())
    assert code is Code.RESOURCE_EXHAUSTED
    assert details == "calls of 127.0.0.1: 2 exceeds the limit of 1"
    first.cancel()
    await until(lambda: local.service.supervisor.open_streams == 0)
    assert (await local.outcome(config()))[0] is Code.OK
    assert counted(local, "refusals", "RESOURCE_EXHAUSTED", "identity_calls") == 1
    assert counted(local, "calls", "CANCELLED", "cancelled") == 1
    assert counted(local, "calls", "OK", "finished") == 1
