"""One stream to the server, message by message, and what callers of a soak know and say."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import grpc
import numpy as np
import soundfile
import soxr
from load.calls import CHANNEL_OPTIONS, DEMO, HIDDEN, METHOD, Own

from streamer.audio.codec import SAMPLE_RATE, Encoding, encode
from streamer.rpc import voicecohort_pb2 as pb

REFUSED = "refused"
"""Ended before it was accepted, since the server is full."""
WIDE_RATE = 16000
STEREO_SECONDS = 8
MOVED_CHUNKS = 40
"""Of 100 ms, of a call that loses its server."""
CLOAKED = "hidden"
"""A write has run into the status, which cannot be known then (grpc issue 36066)."""
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
        answers: final prediction, serialised, of each channel: ``stereo`` of
            :func:`stereo_chunks`, ``moved`` of :data:`MOVED_CHUNKS` chunks.
    """

    target: str
    channel: grpc.aio.Channel
    chance: random.Random
    answers: Mapping[str, Sequence[bytes]]


def connect(target: str, *options: tuple[str, int]) -> grpc.aio.Channel:
    """A connection of its own."""
    return grpc.aio.insecure_channel(target, options=(*CHANNEL_OPTIONS, *options))


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
        self.stream: Own = channel.stream_stream(METHOD)()
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
            return CLOAKED
        return str(code.name)

    async def refusal(self) -> str:
        """Why it was not accepted; a write may have met the end of a refused stream."""
        status = await self.end()
        return REFUSED if status in {"RESOURCE_EXHAUSTED", CLOAKED} else status

    async def done(self) -> str:
        """Half-close and read to the end."""
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await self.stream.done_writing()
        return await self.end()

    def finals(self) -> dict[int, pb.Prediction]:
        """Final prediction by channel."""
        predictions = [r.prediction for r in self.responses if r.prediction.final]
        return {prediction.channel: prediction for prediction in predictions}


def chunks(count: int) -> list[bytes]:
    """So many chunks of 100 ms of the caller's side."""
    side, size = demo()[::2], SAMPLE_RATE // 10
    return [side[at : at + size] for at in range(0, count * size, size)]
