"""One call of each kind of caller; see :mod:`soak_callers` for how they may end."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

import grpc
import numpy as np
import soundfile
import soxr
from load import CHANNEL_OPTIONS, DEMO, METHOD, Stream
from soak_proxy import Proxy
from soak_reference import difference

from streamer.codec import SAMPLE_RATE, Encoding, encode
from streamer.rpc import voicecohort_pb2 as pb

REFUSED = "refused"
"""Ended before it was accepted, since the server is full."""
HIDDEN = "Internal error from Core"
"""In place of a status that a write has run into (grpc issue 36066)."""
WIDE_RATE = 16000
STEREO_SECONDS = 8
SILENCE_SECONDS = 45
HALF_OPEN_SECONDS = 120.0
"""A server that has not noticed by then never will."""
WAIT_SECONDS = 120.0
"""Longer than any limit of the server."""
MULAW_SILENCE = b"\xff"

Request = pb.StreamClassifyRequest


class Wrong(Exception):
    """The server did what it must not do."""


@dataclass(frozen=True)
class World:
    """What a caller knows.

    Attributes:
        target: HOST:PORT of the server.
        channel: shared by the callers of a kind.
        chance: of this line of callers.
        stereo_answers: final prediction, serialised, of each channel of :func:`stereo_chunks`.
    """

    target: str
    channel: grpc.aio.Channel
    chance: random.Random
    stereo_answers: Sequence[bytes]


def connect(target: str) -> grpc.aio.Channel:
    """A connection of its own."""
    return grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS)


@functools.cache
def demo() -> bytes:
    """The demo call, two channels of mu-law."""
    sides, _ = soundfile.read(DEMO, dtype="int16", always_2d=True)
    return encode(sides, Encoding.MULAW)


@functools.cache
def stereo_chunks() -> list[bytes]:
    """Eight seconds of both sides as linear16 at 16 kHz, in chunks of 200 ms."""
    sides, _ = soundfile.read(DEMO, dtype="int16", always_2d=True)
    part = sides[4 * SAMPLE_RATE : (4 + STEREO_SECONDS) * SAMPLE_RATE].astype(np.float64)
    wide = np.clip(soxr.resample(part, SAMPLE_RATE, WIDE_RATE), -32768, 32767).astype(np.int16)
    coded = encode(wide, Encoding.LINEAR16)
    size = WIDE_RATE * 2 * 2 // 5
    return [coded[at : at + size] for at in range(0, len(coded), size)]


class Caller:
    """One stream, message by message."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.stream: Stream = channel.stream_stream(METHOD)()
        self._sequence = 0
        self.responses: list[pb.StreamClassifyResponse] = []

    async def begin(self, **config: object) -> bool:
        """Send a config; whether the call is accepted."""
        fields = {"encoding": pb.AUDIO_ENCODING_MULAW, "sample_rate": SAMPLE_RATE} | config
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await self.stream.write(self.config(**fields))
            return isinstance(await self.stream.read(), bytes)
        return False

    @staticmethod
    def config(**fields: object) -> bytes:
        """A config, serialised."""
        return Request(config=pb.StreamConfig(**fields)).SerializeToString()  # type: ignore[arg-type]

    async def audio(self, data: bytes, sequence: int | None = None) -> None:
        """The next message, or one of another number."""
        self._sequence = self._sequence + 1 if sequence is None else sequence
        audio = pb.Audio(sequence=self._sequence, data=data)
        await self.stream.write(Request(audio=audio).SerializeToString())

    async def paced(self, chunks: Sequence[bytes], seconds: float) -> None:
        """Chunks of ``seconds`` each, as they are spoken."""
        begin = time.monotonic()
        for number, chunk in enumerate(chunks, start=1):
            await asyncio.sleep(begin + number * seconds - time.monotonic())
            await self.audio(chunk)

    async def end(self) -> str:
        """Read to the end; name of the status."""
        with contextlib.suppress(grpc.aio.AioRpcError):
            while isinstance(data := await self.stream.read(), bytes):
                self.responses.append(pb.StreamClassifyResponse.FromString(data))
        code = await self.stream.code()
        if await self.stream.details() == HIDDEN:
            return "hidden"
        return str(code.name)

    async def refusal(self) -> str:
        """Why it was not accepted."""
        status = await self.end()
        return REFUSED if status == "RESOURCE_EXHAUSTED" else status

    async def done(self) -> str:
        """Half-close and read to the end."""
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await self.stream.done_writing()
        return await self.end()

    def finals(self) -> dict[int, pb.Prediction]:
        """Final prediction by channel."""
        predictions = [r.prediction for r in self.responses if r.prediction.final]
        return {prediction.channel: prediction for prediction in predictions}


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
    finals = caller.finals()
    for channel, answer in enumerate(world.stereo_answers):
        if status == "OK" and (
            wrong := difference(finals[channel], pb.Prediction.FromString(answer))
        ):
            raise Wrong(f"channel {channel}: {wrong}")
    return status


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
        await caller.paced(_chunks(world.chance.randint(2, 20)), 0.1)
        proxy.cut()
        await caller.end()
    return "cut off"


async def half_open(world: World) -> str:
    """The network is gone: no goodbye, no reset, no answer to pings."""
    async with Proxy(world.target) as proxy, connect(proxy.target) as channel:
        caller = Caller(channel)
        if not await caller.begin():
            return await caller.refusal()
        await caller.paced(_chunks(world.chance.randint(2, 20)), 0.1)
        proxy.swallow()
        closed = await proxy.closed_by_server(HALF_OPEN_SECONDS)
        caller.stream.cancel()
    return "closed by the server" if closed else "never noticed"


async def idle(world: World) -> str:
    """Speaks, then sends nothing more, without an end."""
    caller = Caller(world.channel)
    if not await caller.begin():
        return await caller.refusal()
    await caller.paced(_chunks(10), 0.1)
    async with asyncio.timeout(WAIT_SECONDS):
        status = await caller.end()
    if not caller.finals():
        raise Wrong(f"{status} without a final prediction")
    return status


async def no_config(world: World) -> str:
    """Opens a stream and says nothing."""
    caller = Caller(world.channel)
    async with asyncio.timeout(WAIT_SECONDS):
        return await caller.end()


async def cancelled(world: World) -> str:
    """Hangs up by cancelling."""
    caller = Caller(world.channel)
    if not await caller.begin():
        return await caller.refusal()
    await caller.paced(_chunks(world.chance.randint(1, 30)), 0.1)
    caller.stream.cancel()
    return await caller.end()


# --- these are a burden ---


async def slow_reader(world: World) -> str:
    """Asks for every prediction there is, reads none, and goes on talking."""
    caller = Caller(world.channel)
    stereo_mulaw = [pb.ChannelConfig(), pb.ChannelConfig()]
    from_100_ms = pb.StreamConfig(channels=stereo_mulaw, speech_events=True)
    from_100_ms.update_interval.FromMilliseconds(100)
    fields = {
        "channels": stereo_mulaw,
        "speech_events": True,
        "update_interval": from_100_ms.update_interval,
    }
    if not await caller.begin(**fields):
        return await caller.refusal()
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            for number in range(90):
                at = number * 2 * SAMPLE_RATE % (len(demo()) - 2 * SAMPLE_RATE)
                await caller.audio(demo()[at : at + 2 * SAMPLE_RATE])
                await asyncio.sleep(0.2)
            await caller.stream.done_writing()
            await asyncio.sleep(10)
    except (TimeoutError, grpc.aio.AioRpcError, asyncio.InvalidStateError):
        pass  # what the server made of it is read below
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


# --- these are wrong ---

_LINEAR: dict[str, object] = {"encoding": pb.AUDIO_ENCODING_LINEAR16}
MALFORMED: dict[str, tuple[dict[str, object] | None, bytes, str]] = {
    # name: config that is sent and accepted first, then bytes, then the status
    "undecodable": ({}, b"\xff" * 10, "INVALID_ARGUMENT"),
    "undecodable first": (None, b"\xff" * 10, "INVALID_ARGUMENT"),
    "encoding": (None, Caller.config(encoding=0, sample_rate=8000), "INVALID_ARGUMENT"),
    "rate": (None, Caller.config(encoding=1, sample_rate=44100), "INVALID_ARGUMENT"),
    "channels": (
        None,
        Caller.config(encoding=1, sample_rate=8000, channels=[pb.ChannelConfig()] * 3),
        "INVALID_ARGUMENT",
    ),
    "call id": (
        None,
        Caller.config(encoding=1, sample_rate=8000, call_id="x" * 129),
        "INVALID_ARGUMENT",
    ),
    "audio first": (
        None,
        Request(audio=pb.Audio(data=b"1")).SerializeToString(),
        "FAILED_PRECONDITION",
    ),
    "config twice": ({}, Caller.config(encoding=1, sample_rate=8000), "FAILED_PRECONDITION"),
    "half a sample": (
        _LINEAR,
        Request(audio=pb.Audio(data=b"123")).SerializeToString(),
        "INVALID_ARGUMENT",
    ),
    "no audio": ({}, Request(audio=pb.Audio()).SerializeToString(), "INVALID_ARGUMENT"),
    "nothing": ({}, b"", "INVALID_ARGUMENT"),
    "long chunk": (
        {},
        Request(audio=pb.Audio(data=bytes(11 * SAMPLE_RATE))).SerializeToString(),
        "RESOURCE_EXHAUSTED",
    ),
    "oversize": (
        {},
        Request(audio=pb.Audio(data=bytes(2_000_000))).SerializeToString(),
        "RESOURCE_EXHAUSTED",
    ),
    "finish a channel": (
        {},
        Request(control=pb.Control(channels=[0], finish=pb.Finish())).SerializeToString(),
        "INVALID_ARGUMENT",
    ),
    "channel that is none": (
        {},
        Request(control=pb.Control(channels=[7], hold=pb.Hold())).SerializeToString(),
        "INVALID_ARGUMENT",
    ),
}


async def malformed(world: World) -> str:
    """One mistake, of those that there are."""
    name = world.chance.choice(list(MALFORMED))
    config, data, wanted = MALFORMED[name]
    caller = Caller(world.channel)
    if config is not None and not await caller.begin(**config):
        return await caller.refusal()
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        await caller.stream.write(data)
    status = await caller.end()
    if status == "RESOURCE_EXHAUSTED" and config is None:
        return REFUSED
    return "as expected" if status == wanted else f"{name}: {status} instead of {wanted}"


def _chunks(count: int) -> list[bytes]:
    """So many chunks of 100 ms of the caller's side."""
    side, size = demo()[::2], SAMPLE_RATE // 10
    return [side[at : at + size] for at in range(0, count * size, size)]
