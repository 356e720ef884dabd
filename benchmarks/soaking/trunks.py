"""Calls on trunks: a good one beside lines that misbehave, and a trunk that breaks."""

from __future__ import annotations

import asyncio
import contextlib
import time

import grpc

from soaking.kinds import right
from soaking.proxy import Proxy
from soaking.stream import REFUSED, WIDE_RATE, World, chunks, connect, demo, stereo_chunks
from streamer.audio.codec import SAMPLE_RATE
from streamer.client.trunk import Trunks
from streamer.client.trunk_line import Line
from streamer.rpc import voicecohort_pb2 as pb

Request = pb.StreamClassifyRequest
CROWD = 4
"""Misbehaving lines beside the good one, at a time."""
CUT_CALLS = 5
STEREO = pb.StreamConfig(
    encoding=pb.AUDIO_ENCODING_LINEAR16,
    sample_rate=WIDE_RATE,
    channels=[pb.ChannelConfig(role=role) for role in (1, 2)],  # type: ignore[arg-type]
)
MULAW = pb.StreamConfig(encoding=pb.AUDIO_ENCODING_MULAW, sample_rate=SAMPLE_RATE)


async def on_trunk(world: World) -> str:
    """Both sides of a conversation, paced, beside nonsense; the answer must be right."""
    trunks = Trunks(world.channel, (), 1)
    tasks: list[asyncio.Task[object]] = []
    tasks += [asyncio.create_task(_nonsense(trunks, world)) for _ in range(CROWD)]
    try:
        line = trunks.open()
        try:
            await line.begin(STEREO)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                return REFUSED
            raise
        reading = asyncio.create_task(_read(line))
        tasks.append(reading)
        await _paced(line, stereo_chunks(), 0.2)
        await line.half_close()
        return right(await reading, "OK", world.answers["stereo"])
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await trunks.close()


async def cut_trunk(world: World) -> str:
    """The connection of a trunk is cut under its calls."""
    async with Proxy(world.target) as proxy, connect(proxy.target) as channel:
        trunks = Trunks(channel, (), 1)
        calls = [asyncio.create_task(_talk(trunks.open())) for _ in range(CUT_CALLS)]
        await asyncio.sleep(world.chance.uniform(0.5, 2.0))
        proxy.cut()
        ends = await asyncio.gather(*calls)
        await trunks.close()
    return "cut off" if set(ends) <= {"UNAVAILABLE", "RESOURCE_EXHAUSTED"} else str(sorted(ends))


async def _talk(line: Line) -> str:
    """Speak until something ends it; name of the status."""
    try:
        await line.begin(MULAW)
        await _paced(line, chunks(100), 0.1)
    except grpc.aio.AioRpcError as error:
        return str(error.code().name)
    return "OK"


async def _read(line: Line) -> dict[int, pb.Prediction]:
    """To the end of a call; its final predictions by channel."""
    finals = {}
    while (response := await line.read()) is not None:
        if response.prediction.final:
            finals[response.prediction.channel] = response.prediction
    return finals


async def _paced(line: Line, spoken: list[bytes], seconds: float) -> None:
    """Chunks of ``seconds`` each, as they are spoken."""
    begin = time.monotonic()
    for number, chunk in enumerate(spoken, start=1):
        await asyncio.sleep(begin + number * seconds - time.monotonic())
        await line.write(Request(audio=pb.Audio(sequence=number, data=chunk)))


async def _nonsense(trunks: Trunks, world: World) -> None:
    """One line after another that does what it must not."""
    while True:
        line = trunks.open()
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await world.chance.choice((_bad_config, _bad_audio, _flood, _left))(line)
        await line.close()
        await asyncio.sleep(world.chance.uniform(0.1, 0.5))


async def _bad_config(line: Line) -> None:
    await line.begin(pb.StreamConfig(encoding=pb.AUDIO_ENCODING_MULAW, sample_rate=1))


async def _bad_audio(line: Line) -> None:
    await line.begin(MULAW)
    await line.write(Request(audio=pb.Audio(sequence=1, data=b"")))
    await _read(line)


async def _flood(line: Line) -> None:
    """A minute of speech at once, to the end."""
    await line.begin(MULAW)
    size = 10 * SAMPLE_RATE
    for number in range(6):
        audio = pb.Audio(sequence=number + 1, data=demo()[:size])
        await line.write(Request(audio=audio))
    await line.half_close()
    await _read(line)


async def _left(line: Line) -> None:
    await line.begin(MULAW)
    await _paced(line, chunks(5), 0.1)
