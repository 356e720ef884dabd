"""Calls that share trunks: a gateway sees what it would see of calls on streams of their own."""

import asyncio
import gc
import time
import weakref

import grpc
import pytest

from streamer.audio.codec import Encoding, encode
from streamer.client import Client, Prediction
from streamer.client.retry import retry_delay
from streamer.client.trunk_line import WINDOW_BYTES
from streamer.rpc import voicecohort_pb2 as pb
from streamer.security.identity import Identities
from streamer.transport import trunk_line as line

Code = grpc.StatusCode
RATE = 8000


@pytest.fixture(scope="module")
def speech(voices):
    return encode(voices.caller[4 * RATE : 9 * RATE], Encoding.MULAW)


async def stream(client, data, size=800, **config):
    """A call of ``data``: its events."""
    async with client.call(**config) as call:
        for start in range(0, len(data), size):
            await call.send(data[start : start + size])
        await call.end_of_audio()
        return [event async for event in call]


def finals(events):
    return [event for event in events if isinstance(event, Prediction) and event.final]


def test_trunks_and_streams_give_equal_results(run_async, server, speech):
    async def main():
        async with Client(server.target) as own, Client(server.target, trunks=2) as shared:
            alone = await stream(own, speech, speech_events=True)
            calls = [stream(shared, speech, speech_events=True) for _ in range(7)]
            return alone, await asyncio.gather(*calls)

    alone, calls = run_async(main())
    assert len(finals(alone)) == 1
    for events in calls:
        assert finals(events) == finals(alone)
        assert [e for e in events if not isinstance(e, Prediction)] == [
            e for e in alone if not isinstance(e, Prediction)
        ]


def test_sends_of_many_calls_do_not_wait(run_async, server, speech):
    """A gateway sends for one call after the other: what is sent together must cost one tick."""

    async def main():
        async with Client(server.target, trunks=1) as client:
            calls = [client.call() for _ in range(50)]
            await asyncio.gather(*(call.__aenter__() for call in calls))
            began = time.monotonic()
            for call in calls:
                await call.send(speech[:800])
            took = time.monotonic() - began
            await asyncio.gather(*(call.finish() for call in calls))
            return took

    assert run_async(main()) < 0.25  # fifty ticks are twice that


def test_trunk_errors_equal_stream_errors(run_async, server):
    async def main():
        async with Client(server.target, trunks=1) as client:
            good = client.call()
            async with good:
                with pytest.raises(grpc.aio.AioRpcError) as bad:
                    async with client.call(sample_rate=11025):
                        pass
                async with client.call() as call:
                    await call.send(b"")
                    with pytest.raises(grpc.aio.AioRpcError) as late:
                        await call.finish()
                    with pytest.raises(grpc.aio.AioRpcError):
                        await call.send(b"\xff")
                await good.send(b"\xff" * 800)
                (final,) = await good.finish()
            return bad.value, late.value, final

    bad, late, final = run_async(main())
    assert bad.code() is Code.INVALID_ARGUMENT
    assert bad.details() == "config.sample_rate: 11025 is not valid; 8000 or 16000 Hz"
    assert late.details() == "audio.data: 0 bytes is not valid; send at least one sample"
    assert retry_delay(bad) is None
    assert final.sequence == 1


def test_refusal_has_a_retry_delay(in_process):
    async def scenario(local):
        async with Client(f"127.0.0.1:{local.port}", trunks=1) as client, client.call():
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                async with client.call():
                    pass
        assert refused.value.code() is Code.RESOURCE_EXHAUSTED
        assert refused.value.details() == "calls: 2 exceeds the limit of 1"
        assert retry_delay(refused.value) == 1.0

    in_process(scenario, max_calls=1)


def test_a_long_file_is_received_completely(run_async, server, speech):
    """Beyond the window the client waits for what the server has taken."""
    assert WINDOW_BYTES == line.WINDOW
    long = speech * (4 * WINDOW_BYTES // len(speech))

    async def main():
        async with Client(server.target, trunks=1) as client:
            beside = client.call()
            async with beside:
                events = await stream(client, long, size=8000)
                await beside.send(b"\xff")
                return finals(events), await beside.finish()

    (final,), (other,) = run_async(main())
    assert final.audio_time == len(long) / RATE
    assert other.sequence == 1


def test_a_cancelled_call_ends_at_the_server(in_process):
    async def scenario(local):
        async with Client(f"127.0.0.1:{local.port}", trunks=1) as client:
            async with client.call():
                assert local.service.supervisor.open_streams == 1
            async with asyncio.timeout(5):
                while local.service.supervisor.open_streams:
                    await asyncio.sleep(0.01)
            async with client.call() as call:  # the trunk goes on
                assert len(await call.finish()) == 1

    in_process(scenario)


def test_closing_the_client_ends_its_calls(run_async, server):
    async def main():
        async with Client(server.target, trunks=1) as client:
            call = client.call()
            await call.__aenter__()
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await call.send(b"\xff")
        return ended.value.code()

    assert run_async(main()) is Code.CANCELLED


def test_closing_the_client_frees_its_connection(run_async, server):
    """Not when Python looks for cycles: gRPC keeps it for as long as a call is known."""

    async def main():
        async with Client(server.target, trunks=1) as client, client.call() as call:
            await call.finish()
            return weakref.ref(client._trunks._slots[0])

    async def gone(trunk):
        async with asyncio.timeout(10):
            while trunk() is not None:
                await asyncio.sleep(0.01)

    gc.disable()
    try:
        run_async(gone(run_async(main())))
    finally:
        gc.enable()


def test_unread_responses_stay_few(run_async, server, speech):
    async def main():
        async with Client(server.target, trunks=1) as client:
            call = client.call(channels=["caller", "agent"], update_seconds=0.1)
            async with call:
                for _ in range(4):
                    for start in range(0, len(speech), 1600):
                        await call.send(speech[start : start + 1600])
                    await asyncio.sleep(0.2)
                await call.end_of_audio()
                async with asyncio.timeout(30):
                    while not call._stream.done:
                        await asyncio.sleep(0.01)
                return [event async for event in call]

    events = run_async(main())
    assert sorted((e.channel, e.final) for e in events) == [(0, True), (1, True)]


def test_a_server_without_trunks_is_unimplemented(run_async):
    async def main():
        bare = grpc.aio.server()
        port = bare.add_insecure_port("127.0.0.1:0")
        await bare.start()
        try:
            async with Client(f"127.0.0.1:{port}", trunks=1) as client:
                with pytest.raises(grpc.aio.AioRpcError) as ended:
                    async with client.call():
                        pass
                return ended.value.code()
        finally:
            await bare.stop(None)

    assert run_async(main()) is Code.UNIMPLEMENTED


def test_a_broken_trunk_is_reopened(in_process):
    async def scenario(local):
        async with Client(f"127.0.0.1:{local.port}", trunks=1) as client:
            call = client.call()
            await call.__aenter__()
            client._trunks._slots[0]._stream._stream.cancel()
            with pytest.raises(grpc.aio.AioRpcError):
                async for _ in call:
                    pass
            async with client.call() as again:
                assert len(await again.finish()) == 1
            assert len(client._trunks._running) == 1

    in_process(scenario)


def test_each_client_has_its_own_connection(in_process):
    """Which the kernel deals out to the workers of a server; trunks of a client share it."""
    peers = []

    class Addresses(Identities):
        def caller(self, opener):
            peers.append(opener.peer())
            return super().caller(opener)

    async def scenario(local):
        target = f"127.0.0.1:{local.port}"
        async with Client(target, trunks=2) as one, Client(target, trunks=1) as other:
            for client in (one, one, other):
                async with client.call() as call:
                    await call.finish()

    in_process(scenario, identities=Addresses())
    assert len(peers) == 6  # of a trunk and of its call, three times
    assert len(set(peers[:4])) == 1
    assert len(set(peers)) == 2


def test_a_negative_number_of_trunks_is_refused():
    with pytest.raises(ValueError, match="trunks: -1 is negative"):
        Client("127.0.0.1:1", trunks=-1)


def test_started_equals_that_of_streams(run_async, server):
    async def main():
        async with (
            Client(server.target) as own,
            Client(server.target, trunks=1) as shared,
            own.call(call_id="a") as one,
            shared.call(call_id="a") as two,
        ):
            return one.started, two.started

    one, two = run_async(main())
    assert isinstance(two, pb.Started)
    assert one == two
