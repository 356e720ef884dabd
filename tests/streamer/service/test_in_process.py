"""A student that fails, a client that is gone: in a server of the test's own."""

import asyncio
import gc
import weakref

import grpc
import numpy as np
import pytest

from streamer.call.call import Call
from tests.streamer.in_process import Context, until
from tests.streamer.wire import LINEAR, RATE, Code, config, sound


@pytest.mark.parametrize(
    ("marker", "reason"), [("RAISES", "ArithmeticError"), ("NAN", "its answer is not finite")]
)
async def test_failing_student_is_internal_to_one_call(local, make_student, marker, reason):
    noise = np.random.default_rng(0).integers(-9000, 9000, 2 * RATE).astype(np.int16)
    bad = noise.copy()
    bad[0] = getattr(make_student, marker)

    def call(samples):
        return local.outcome(LINEAR, sound(1, samples.tobytes()))

    quiet = await call(noise)
    assert quiet[0] is Code.OK
    good, failed, other = await asyncio.gather(call(noise), call(bad), call(noise))
    assert failed == (Code.INTERNAL, f"the student failed on this call: {reason}", [])
    assert good == other == quiet
    assert local.service.supervisor.open_streams == 0
    assert local.service.supervisor.calls == set()


async def test_client_gone_before_started_is_removed(local):
    """The stream breaks while `started` is written."""

    class Gone(Context):
        async def write(self, _):
            raise asyncio.CancelledError

    task = asyncio.create_task(local.service.StreamClassify(None, Gone(config())))
    await asyncio.wait({task})
    assert task.cancelled()
    assert local.service.supervisor.open_streams == 0
    assert local.service.supervisor.calls == set()
    assert local.service._admission.held == {}


async def test_idle_call_is_ended_by_the_clock(local):
    """The sweeper ends exactly those calls that have been silent for too long."""
    now = [1000.0]
    local.clock = lambda: now[0]
    stream = local.stub.StreamClassify(timeout=30)
    await stream.write(config())
    await stream.read()
    now[0] += 299.0
    local.service.supervisor.sweep()
    await stream.write(sound(1))
    await until(lambda: any(call.messages for call in local.service.supervisor.calls))
    now[0] += 299.0
    local.service.supervisor.sweep()
    await asyncio.sleep(0.05)
    assert not stream.done()
    now[0] += 2.0
    local.service.supervisor.sweep()
    final = await stream.read()
    assert final.prediction.final
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stream.read()
    assert caught.value.code() is Code.DEADLINE_EXCEEDED
    assert caught.value.details() == (
        "no message for 300 s; half-close or send `finish` to end a call"
    )
    assert local.service.supervisor.open_streams == 0


@pytest.mark.parametrize("requests", [[config(), sound(1, b"")], [config(), config()], [config()]])
async def test_ended_call_is_freed_at_once(local, monkeypatch, requests):
    """gRPC keeps the exception that a status is sent by; it must not keep the call."""
    calls = []
    begin = Call.__init__

    def noted(call, *args, **kwargs):
        begin(call, *args, **kwargs)
        calls.append(weakref.ref(call))

    monkeypatch.setattr(Call, "__init__", noted)
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            code, _, _ = await local.outcome(*requests)
            assert (code is Code.OK) == (len(requests) == 1)
        await local.outcome()  # the last may still be held by what asyncio did last
        while local.service.supervisor.open_streams:
            await asyncio.sleep(0.01)
        assert [call() for call in calls] == [None] * 3
    finally:
        gc.enable()
