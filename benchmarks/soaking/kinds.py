"""One call of each kind of caller; see :mod:`soaking.callers` for how they may end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence

import grpc

from soaking.proxy import Proxy
from soaking.reference import difference
from soaking.stream import (
    MOVED_CHUNKS,
    WAIT_SECONDS,
    WIDE_RATE,
    Caller,
    World,
    Wrong,
    chunks,
    connect,
    demo,
    stereo_chunks,
)
from streamer.audio.codec import SAMPLE_RATE
from streamer.rpc import voicecohort_pb2 as pb

SILENCE_SECONDS = 45
MULAW_SILENCE = b"\xff"
SMALL_WINDOW = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 16384))
"""gRPC's window grows to megabytes where the network is fast; a gateway's need not."""
UNREAD_CHUNKS = 1000
"""Messages of a slow reader: what they bring forth fills the window of its stream."""
UNREAD_SECONDS = 30.0
"""For so long it reads nothing after its last message."""
HALF_OPEN_SECONDS = 120.0
"""A server that has not noticed by then never will."""


# --- nothing wrong with these ---


async def stereo(world: World) -> str:
    """Both sides of a conversation, linear16 at 16 kHz, paced; the answer must be right."""
    caller = Caller(world.channel)
    channels = [pb.ChannelConfig(role=role) for role in (1, 2)]  # type: ignore[arg-type]
    encoding = pb.AUDIO_ENCODING_LINEAR16
    if not await caller.begin(encoding=encoding, sample_rate=WIDE_RATE, channels=channels):
        return await caller.refusal()
    reading = asyncio.create_task(caller.end())
    try:
        await caller.paced(stereo_chunks(), 0.2)
        await caller.stream.done_writing()
        status = await reading
    finally:
        reading.cancel()
    return right(caller.finals(), status, world.answers["stereo"])


def right(finals: Mapping[int, pb.Prediction], status: str, answers: Sequence[bytes]) -> str:
    """The status, if a good end brought the right answers; raises Wrong."""
    for channel, answer in enumerate(answers):
        wanted = pb.Prediction.FromString(answer)
        if status == "OK" and (wrong := difference(finals[channel], wanted)):
            raise Wrong(f"channel {channel}: {wrong}")
    return status


async def moved(world: World) -> str:
    """Loses its connection after a checkpoint, and goes on from there."""
    every = pb.StreamConfig()
    every.checkpoint_interval.FromSeconds(1)
    config = {"checkpoint_interval": every.checkpoint_interval, "call_id": f"moved-{id(world)}"}
    said = chunks(MOVED_CHUNKS)
    async with Proxy(world.target) as proxy, connect(proxy.target) as channel:
        caller = Caller(channel)
        if not await caller.begin(**config):
            return await caller.refusal()
        reading = asyncio.create_task(caller.end())
        await caller.paced(said[: MOVED_CHUNKS // 2 + world.chance.randrange(5)], 0.1)
        proxy.cut()
        await reading
    made = [r.checkpoint for r in caller.responses if r.HasField("checkpoint")]
    if not made:
        return "no checkpoint"
    again = Caller(world.channel)
    if not await again.begin(resume_from=made[-1].data, **config):
        return await again.refusal()
    for sequence in range(made[-1].sequence + 1, MOVED_CHUNKS + 1):
        await again.audio(said[sequence - 1], sequence)
    status = await again.done()
    return right(again.finals(), status, world.answers["moved"])


async def silence(world: World) -> str:
    """A long call in which nobody speaks."""
    caller = Caller(world.channel)
    if not await caller.begin():
        return await caller.refusal()
    await caller.paced([MULAW_SILENCE * SAMPLE_RATE] * SILENCE_SECONDS, 1.0)
    status = await caller.done()
    if status == "OK":
        (final,) = caller.finals().values()
        if final.speech_time.ToNanoseconds() or final.audio_time.seconds != SILENCE_SECONDS:
            raise Wrong(f"silence: {final.audio_time} of which {final.speech_time}")
    return status


# --- these vanish ---


async def cut_off(world: World) -> str:
    """The host loses power in mid-call."""
    async with Proxy(world.target) as proxy, connect(proxy.target) as channel:
        caller = Caller(channel)
        if not await caller.begin():
            return await caller.refusal()
        await caller.paced(chunks(world.chance.randint(2, 20)), 0.1)
        proxy.cut()
        await caller.end()
    return "cut off"


async def half_open(world: World) -> str:
    """The network is gone: no goodbye, no reset, no answer to pings."""
    async with Proxy(world.target) as proxy, connect(proxy.target) as channel:
        caller = Caller(channel)
        if not await caller.begin():
            return await caller.refusal()
        await caller.paced(chunks(world.chance.randint(2, 20)), 0.1)
        proxy.swallow()
        closed = await proxy.closed_by_server(HALF_OPEN_SECONDS)
        caller.stream.cancel()
    return "closed by the server" if closed else "never noticed"


async def idle(world: World) -> str:
    """Speaks, then sends nothing more, without an end."""
    caller = Caller(world.channel)
    if not await caller.begin():
        return await caller.refusal()
    await caller.paced(chunks(10), 0.1)
    async with asyncio.timeout(WAIT_SECONDS):
        status = await caller.end()
    if not caller.finals():
        raise Wrong(f"{status} without a final prediction")
    return status


async def no_config(world: World) -> str:
    """Opens a stream and says nothing."""
    caller = Caller(world.channel)
    async with asyncio.timeout(WAIT_SECONDS):
        return await caller.refusal()


async def cancelled(world: World) -> str:
    """Hangs up by cancelling."""
    caller = Caller(world.channel)
    if not await caller.begin():
        return await caller.refusal()
    await caller.paced(chunks(world.chance.randint(1, 30)), 0.1)
    caller.stream.cancel()
    return str((await caller.stream.code()).name)


# --- these are a burden ---


async def slow_reader(world: World) -> str:
    """Asks for every prediction there is, reads none until late, and goes on talking."""
    async with connect(world.target, *SMALL_WINDOW) as channel:
        caller = Caller(channel)
        sides = [pb.ChannelConfig(), pb.ChannelConfig()]
        every = pb.StreamConfig()
        every.update_interval.FromMilliseconds(100)
        interval = every.update_interval
        if not await caller.begin(speech_events=True, channels=sides, update_interval=interval):
            return await caller.refusal()
        size = 2 * SAMPLE_RATE // 10
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError, TimeoutError):
            async with asyncio.timeout(WAIT_SECONDS):
                for number in range(UNREAD_CHUNKS):  # each for a prediction of both channels
                    at = number * size % (len(demo()) - size)
                    await caller.audio(demo()[at : at + size])
                    await asyncio.sleep(0.01)
                await caller.stream.done_writing()
                await asyncio.sleep(UNREAD_SECONDS)
        async with asyncio.timeout(WAIT_SECONDS):
            return await caller.end()


async def files(world: World) -> str:
    """Two minutes of stereo as fast as they are taken, ten seconds a message."""
    caller = Caller(world.channel)
    if not await caller.begin(channels=[pb.ChannelConfig(), pb.ChannelConfig()]):
        return await caller.refusal()
    reading = asyncio.create_task(caller.end())
    size = 10 * SAMPLE_RATE * 2
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        for number in range(12):
            at = number * size % max(2, len(demo()) - size) // 2 * 2
            await caller.audio(demo()[at : at + size])
        await caller.stream.done_writing()
    return await reading


async def tiny(world: World) -> str:
    """Messages of one sample, as fast as they are taken."""
    caller = Caller(world.channel)
    if not await caller.begin():
        return await caller.refusal()
    reading = asyncio.create_task(caller.end())
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        for number in range(2000):
            await caller.audio(demo()[number : number + 1])
        await caller.stream.done_writing()
    return await reading
