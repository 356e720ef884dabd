"""One call of each kind of caller; :mod:`soaking.callers` lists the statuses they may end with."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from soaking.connection import (
    MOVED_CHUNKS,
    REFUSED,
    WAIT_SECONDS,
    WIDE_RATE,
    Caller,
    Context,
    Proxy,
    UnexpectedResponse,
    chunks,
    connect,
    demo,
    difference,
    stereo_chunks,
)

from streamer.audio.codec import SAMPLE_RATE
from streamer.client.trunk import Trunks
from streamer.client.trunk_line import Line
from streamer.rpc import voicecohort_pb2 as pb

Request = pb.StreamClassifyRequest
SILENCE_SECONDS = 45
MULAW_SILENCE = b"\xff"
SMALL_WINDOW = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 16384))
"""Keeps the flow-control window small; gRPC would grow it to megabytes on a fast network."""
UNREAD_CHUNKS = 1000
"""Messages of a slow reader: their responses fill the window of its stream."""
UNREAD_SECONDS = 30.0
"""After the last message of a slow reader, before it reads."""
HALF_OPEN_SECONDS = 120.0
"""For the server to notice a connection without a network."""
CROWD = 4
"""Faulty calls beside the correct one, at a time."""
CUT_CALLS = 5
STEREO = pb.StreamConfig(
    encoding=pb.AUDIO_ENCODING_LINEAR16,
    sample_rate=WIDE_RATE,
    channels=[pb.ChannelConfig(role=role) for role in (1, 2)],  # type: ignore[arg-type]
)
MULAW = pb.StreamConfig(encoding=pb.AUDIO_ENCODING_MULAW, sample_rate=SAMPLE_RATE)


async def stereo(context: Context) -> str:
    """Send both sides of a conversation in linear16 at 16 kHz; check the final predictions."""
    caller = Caller(context.channel)
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
    return checked(caller.finals(), status, context.answers["stereo"])


def checked(finals: Mapping[int, pb.Prediction], status: str, answers: Sequence[bytes]) -> str:
    """Return the status; raise UnexpectedResponse if a call ended OK with other predictions."""
    for channel, answer in enumerate(answers):
        expected = pb.Prediction.FromString(answer)
        if status == "OK" and (wrong := difference(finals[channel], expected)):
            raise UnexpectedResponse(f"channel {channel}: {wrong}")
    return status


async def resumed(context: Context) -> str:
    """Lose the connection after a checkpoint, and resume from it."""
    interval = Duration(seconds=1)
    config = {"checkpoint_interval": interval, "call_id": f"moved-{id(context)}"}
    audio = chunks(MOVED_CHUNKS)
    async with Proxy(context.target) as proxy, connect(proxy.target) as channel:
        caller = Caller(channel)
        if not await caller.begin(**config):
            return await caller.refusal()
        reading = asyncio.create_task(caller.end())
        await caller.paced(audio[: MOVED_CHUNKS // 2 + context.random.randrange(5)], 0.1)
        proxy.cut()
        await reading
    made = [r.checkpoint for r in caller.responses if r.HasField("checkpoint")]
    if not made:
        return "no checkpoint"
    again = Caller(context.channel)
    if not await again.begin(resume_from=made[-1].data, **config):
        return await again.refusal()
    for sequence in range(made[-1].sequence + 1, MOVED_CHUNKS + 1):
        await again.audio(audio[sequence - 1], sequence)
    status = await again.done()
    return checked(again.finals(), status, context.answers["moved"])


async def silence(context: Context) -> str:
    """Send a long call of silence."""
    caller = Caller(context.channel)
    if not await caller.begin():
        return await caller.refusal()
    await caller.paced([MULAW_SILENCE * SAMPLE_RATE] * SILENCE_SECONDS, 1.0)
    status = await caller.done()
    if status == "OK":
        (final,) = caller.finals().values()
        if final.speech_time.ToNanoseconds() or final.audio_time.seconds != SILENCE_SECONDS:
            raise UnexpectedResponse(f"silence: {final.audio_time} of which {final.speech_time}")
    return status


async def on_trunk(context: Context) -> str:
    """Run a correct call on a trunk with faulty ones; check its final predictions."""
    trunks = Trunks(context.channel, (), 1)
    faulty = [asyncio.create_task(_faulty_calls(trunks, context)) for _ in range(CROWD)]
    tasks: list[asyncio.Task[Any]] = [*faulty]
    try:
        line = trunks.open()
        try:
            await line.start(STEREO)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                return REFUSED
            raise
        reading = asyncio.create_task(_read(line))
        tasks.append(reading)
        await _paced(line, stereo_chunks(), 0.2)
        await line.half_close()
        return checked(await reading, "OK", context.answers["stereo"])
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await trunks.close()


async def cut_trunk(context: Context) -> str:
    """Cut the connection of a trunk in mid-call."""
    async with Proxy(context.target) as proxy, connect(proxy.target) as channel:
        trunks = Trunks(channel, (), 1)
        calls = [asyncio.create_task(_send_until_ended(trunks.open())) for _ in range(CUT_CALLS)]
        await asyncio.sleep(context.random.uniform(0.5, 2.0))
        proxy.cut()
        ends = await asyncio.gather(*calls)
        await trunks.close()
    return "cut off" if set(ends) <= {"UNAVAILABLE", "RESOURCE_EXHAUSTED"} else str(sorted(ends))


async def _send_until_ended(line: Line) -> str:
    """Send audio until the call ends; return the name of the status."""
    try:
        await line.start(MULAW)
        await _paced(line, chunks(100), 0.1)
    except grpc.aio.AioRpcError as error:
        return str(error.code().name)
    return "OK"


async def _read(line: Line) -> dict[int, pb.Prediction]:
    """Read a call to its end; return its final predictions by channel."""
    finals = {}
    while (response := await line.read()) is not None:
        if response.prediction.final:
            finals[response.prediction.channel] = response.prediction
    return finals


async def _paced(line: Line, audio: list[bytes], seconds: float) -> None:
    """Send chunks of ``seconds`` each in real time."""
    begin = time.monotonic()
    for number, chunk in enumerate(audio, start=1):
        await asyncio.sleep(begin + number * seconds - time.monotonic())
        await line.write(Request(audio=pb.Audio(sequence=number, data=chunk)))


async def _faulty_calls(trunks: Trunks, context: Context) -> None:
    """Run one faulty call after another."""
    while True:
        line = trunks.open()
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await context.random.choice((_bad_config, _bad_audio, _flood, _unfinished))(line)
        await line.close()
        await asyncio.sleep(context.random.uniform(0.1, 0.5))


async def _bad_config(line: Line) -> None:
    await line.start(pb.StreamConfig(encoding=pb.AUDIO_ENCODING_MULAW, sample_rate=1))


async def _bad_audio(line: Line) -> None:
    await line.start(MULAW)
    await line.write(Request(audio=pb.Audio(sequence=1, data=b"")))
    await _read(line)


async def _flood(line: Line) -> None:
    """Send a minute of speech without pacing; read to the end."""
    await line.start(MULAW)
    size = 10 * SAMPLE_RATE
    for number in range(6):
        audio = pb.Audio(sequence=number + 1, data=demo()[:size])
        await line.write(Request(audio=audio))
    await line.half_close()
    await _read(line)


async def _unfinished(line: Line) -> None:
    await line.start(MULAW)
    await _paced(line, chunks(5), 0.1)


async def cut_off(context: Context) -> str:
    """Reset the connection in mid-call, as when a host loses power."""
    async with Proxy(context.target) as proxy, connect(proxy.target) as channel:
        caller = Caller(channel)
        if not await caller.begin():
            return await caller.refusal()
        await caller.paced(chunks(context.random.randint(2, 20)), 0.1)
        proxy.cut()
        await caller.end()
    return "cut off"


async def half_open(context: Context) -> str:
    """Lose the network: no FIN, no reset, no answer to pings."""
    async with Proxy(context.target) as proxy, connect(proxy.target) as channel:
        caller = Caller(channel)
        if not await caller.begin():
            return await caller.refusal()
        await caller.paced(chunks(context.random.randint(2, 20)), 0.1)
        proxy.swallow()
        closed = await proxy.closed_by_server(HALF_OPEN_SECONDS)
        caller.stream.cancel()
    return "closed by the server" if closed else "not closed"


async def idle(context: Context) -> str:
    """Send audio, then nothing more, without half-closing."""
    caller = Caller(context.channel)
    if not await caller.begin():
        return await caller.refusal()
    await caller.paced(chunks(10), 0.1)
    async with asyncio.timeout(WAIT_SECONDS):
        status = await caller.end()
    if not caller.finals():
        raise UnexpectedResponse(f"{status} without a final prediction")
    return status


async def no_config(context: Context) -> str:
    """Open a stream and send nothing."""
    caller = Caller(context.channel)
    async with asyncio.timeout(WAIT_SECONDS):
        return await caller.refusal()


async def cancelled(context: Context) -> str:
    """Cancel the stream in mid-call."""
    caller = Caller(context.channel)
    if not await caller.begin():
        return await caller.refusal()
    await caller.paced(chunks(context.random.randint(1, 30)), 0.1)
    caller.stream.cancel()
    return str((await caller.stream.code()).name)


async def slow_reader(context: Context) -> str:
    """Request all predictions, read none until late, and keep sending."""
    async with connect(context.target, *SMALL_WINDOW) as channel:
        caller = Caller(channel)
        sides = [pb.ChannelConfig(), pb.ChannelConfig()]
        interval = Duration(nanos=100_000_000)
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


async def _unpaced(context: Context, data: Iterable[bytes], **config: object) -> str:
    """Send audio without pacing; return the name of the status."""
    caller = Caller(context.channel)
    if not await caller.begin(**config):
        return await caller.refusal()
    reading = asyncio.create_task(caller.end())
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        for message in data:
            await caller.audio(message)
        await caller.stream.done_writing()
    return await reading


async def files(context: Context) -> str:
    """Send two minutes of stereo without pacing, ten seconds a message."""
    size = 10 * SAMPLE_RATE * 2
    starts = [n * size % max(2, len(demo()) - size) // 2 * 2 for n in range(12)]
    messages = (demo()[at : at + size] for at in starts)
    return await _unpaced(context, messages, channels=[pb.ChannelConfig(), pb.ChannelConfig()])


async def tiny(context: Context) -> str:
    """Send messages of one sample without pacing."""
    return await _unpaced(context, (demo()[n : n + 1] for n in range(2000)))
