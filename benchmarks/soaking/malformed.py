"""One call of a gateway that makes a mistake."""

from __future__ import annotations

import asyncio
import contextlib

import grpc

from soaking.stream import CLOAKED, REFUSED, Caller, World
from streamer.audio.codec import SAMPLE_RATE
from streamer.rpc import voicecohort_pb2 as pb

Request = pb.StreamClassifyRequest
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
    if config is None and status in {"RESOURCE_EXHAUSTED", CLOAKED}:
        return REFUSED
    return "as expected" if status == wanted else f"{name}: {status} instead of {wanted}"
