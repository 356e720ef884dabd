"""A student that fails, a client that is gone: in a server of the test's own."""

import asyncio
import gc
import weakref

import grpc
import numpy as np
import pytest

from streamer.call.call import Call
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


async def test_client_gone_before_the_answer_leaves_nothing_behind(local):
    """The stream breaks while `started` is written: the call must be taken off the books."""

    class Gone:
        def __init__(self):
            self.requests = [config()]

        def invocation_metadata(self):
            return ()

        async def read(self):
            if not self.requests:
                await asyncio.Event().wait()
            return self.requests.pop()

        async def write(self, _):
            raise asyncio.CancelledError

        def peer(self):
            return "ipv4:192.0.2.1:4711"

        def auth_context(self):
            return {}

    task = asyncio.create_task(local.service.StreamClassify(None, Gone()))
    await asyncio.wait({task})
    assert task.cancelled()
    assert local.service.supervisor.open_streams == 0
    assert local.service.supervisor.calls == set()
    assert local.service._admission.held == {}


async def test_idle_sweep_goes_by_the_clock_it_is_given(local):
    """The sweeper ends exactly those calls that have been silent for too long."""
    now = [1000.0]
    local.clock = lambda: now[0]
    stream = local.stub.StreamClassify(timeout=30)
    await stream.write(config())
    await stream.read()
    now[0] += 299.0
    local.service.supervisor.sweep()
    await stream.write(sound(1))
    while not any(call.messages for call in local.service.supervisor.calls):
        await asyncio.sleep(0.01)
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
    assert local.service.supervisor.open_streams == 0


@pytest.mark.parametrize("requests", [[config(), sound(1, b"")], [config(), config()], [config()]])
async def test_an_ended_call_is_free_at_once_under_real_grpc(local, monkeypatch, requests):
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
