"""One stream to the server, message by message, and a TCP proxy that fails as networks do."""

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
from load.generator import CHANNEL_OPTIONS, DEMO, HIDDEN, METHOD, RawStream

from streamer.audio.codec import SAMPLE_RATE, Encoding, encode
from streamer.rpc import voicecohort_pb2 as pb

REFUSED = "refused"
"""Ended before it was accepted, since the server is at its limit."""
WIDE_RATE = 16000
STEREO_SECONDS = 8
MOVED_CHUNKS = 40
"""Of 100 ms, of a call that is resumed."""
HIDDEN_STATUS = "hidden"
"""A write met the end of the stream, which hides its status (grpc issue 36066)."""
WAIT_SECONDS = 120.0
"""Longer than any time limit of the server."""
PIECE_BYTES = 65536
TOLERANCE = 1e-5
"""Of a posterior: batching changes only the order of float sums."""

Request = pb.StreamClassifyRequest


class UnexpectedResponse(Exception):
    """The server's response is not the expected one."""


@dataclass(frozen=True)
class Context:
    """Input of a caller.

    Attributes:
        target: HOST:PORT of the server.
        channel: shared by the callers of a kind.
        random: of this repetition of callers.
        answers: final prediction, serialised, of each channel: ``stereo`` of
            :func:`stereo_chunks`, ``moved`` of :data:`MOVED_CHUNKS` chunks.
    """

    target: str
    channel: grpc.aio.Channel
    random: random.Random
    answers: Mapping[str, Sequence[bytes]]


def connect(target: str, *options: tuple[str, int]) -> grpc.aio.Channel:
    """Open a connection of its own."""
    return grpc.aio.insecure_channel(target, options=(*CHANNEL_OPTIONS, *options))


@functools.cache
def demo() -> bytes:
    """Return the demo call as two channels of mu-law."""
    sides, _ = soundfile.read(DEMO, dtype="int16", always_2d=True)
    return encode(sides, Encoding.MULAW)


@functools.cache
def stereo_chunks() -> list[bytes]:
    """Return eight seconds of both sides as linear16 at 16 kHz, in chunks of 200 ms."""
    sides, _ = soundfile.read(DEMO, dtype="int16", always_2d=True)
    part = sides[4 * SAMPLE_RATE : (4 + STEREO_SECONDS) * SAMPLE_RATE].astype(np.float64)
    wide = np.clip(soxr.resample(part, SAMPLE_RATE, WIDE_RATE), -32768, 32767).astype(np.int16)
    coded = encode(wide, Encoding.LINEAR16)
    size = WIDE_RATE * 2 * 2 // 5
    return [coded[at : at + size] for at in range(0, len(coded), size)]


class Caller:
    """One stream, message by message."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.stream: RawStream = channel.stream_stream(METHOD)()
        self._sequence = 0
        self.responses: list[pb.StreamClassifyResponse] = []

    async def begin(self, **config: object) -> bool:
        """Send a config; return whether the call is accepted."""
        fields = {"encoding": pb.AUDIO_ENCODING_MULAW, "sample_rate": SAMPLE_RATE} | config
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await self.stream.write(self.config(**fields))
            return isinstance(await self.stream.read(), bytes)
        return False

    @staticmethod
    def config(**fields: object) -> bytes:
        """Serialise a config."""
        return Request(config=pb.StreamConfig(**fields)).SerializeToString()  # type: ignore[arg-type]

    async def audio(self, data: bytes, sequence: int | None = None) -> None:
        """Send the next audio message, or one of another sequence number."""
        self._sequence = self._sequence + 1 if sequence is None else sequence
        audio = pb.Audio(sequence=self._sequence, data=data)
        await self.stream.write(Request(audio=audio).SerializeToString())

    async def paced(self, chunks: Sequence[bytes], seconds: float) -> None:
        """Send chunks of ``seconds`` each in real time."""
        begin = time.monotonic()
        for number, chunk in enumerate(chunks, start=1):
            await asyncio.sleep(begin + number * seconds - time.monotonic())
            await self.audio(chunk)

    async def end(self) -> str:
        """Read to the end; return the name of the status."""
        with contextlib.suppress(grpc.aio.AioRpcError):
            while isinstance(data := await self.stream.read(), bytes):
                self.responses.append(pb.StreamClassifyResponse.FromString(data))
        code = await self.stream.code()
        if await self.stream.details() == HIDDEN:
            return HIDDEN_STATUS
        return str(code.name)

    async def refusal(self) -> str:
        """Return why the call was not accepted."""
        status = await self.end()
        return REFUSED if status in {"RESOURCE_EXHAUSTED", HIDDEN_STATUS} else status

    async def done(self) -> str:
        """Half-close, read to the end, return the name of the status."""
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await self.stream.done_writing()
        return await self.end()

    def finals(self) -> dict[int, pb.Prediction]:
        """Return the final prediction by channel."""
        predictions = [r.prediction for r in self.responses if r.prediction.final]
        return {prediction.channel: prediction for prediction in predictions}


def chunks(count: int) -> list[bytes]:
    """Return so many chunks of 100 ms of the caller's side."""
    side, size = demo()[::2], SAMPLE_RATE // 10
    return [side[at : at + size] for at in range(0, count * size, size)]


def difference(got: pb.Prediction, expected: pb.Prediction) -> str:
    """Return how a final prediction differs from the expected one; empty if it does not."""
    for name in ("audio_time", "speech_time", "lost_time"):
        one, other = (getattr(p, name).ToNanoseconds() for p in (got, expected))
        if one != other:
            return f"{name} {one / 1e9:.3f} s instead of {other / 1e9:.3f} s"
    for name in ("gender", "age_group", "age_band"):
        one, other = getattr(got, name), getattr(expected, name)
        if (one.label, one.undecided) != (other.label, other.undecided):
            return f"{name} {one.label or 'undecided'} instead of {other.label or 'undecided'}"
        off = float(np.abs(np.subtract(one.posterior, other.posterior)).max())
        if not off <= TOLERANCE:
            return f"{name} is off by {off:.2g}"
    return ""


class Proxy:
    """One loopback port before a server. An async context manager.

    Args:
        target: HOST:PORT of the server.
    """

    def __init__(self, target: str) -> None:
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._pumps: set[asyncio.Task[None]] = set()
        self._left = asyncio.Event()
        self._writers: list[asyncio.StreamWriter] = []
        self._listener: asyncio.Server | None = None
        self.target = ""

    async def __aenter__(self) -> Proxy:
        self._listener = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.target = f"127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cut()
        if self._listener is not None:
            self._listener.close()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, ahead = await asyncio.open_connection(self._host, self._port)
        self._writers += [writer, ahead]
        for pumping in (self._to_server(reader, ahead), self._to_client(behind, writer)):
            pump = asyncio.create_task(pumping)
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)

    async def _to_server(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(PIECE_BYTES):
                await self._flowing.wait()
                sink.write(data)
                await sink.drain()
            await self._flowing.wait()
            sink.close()

    async def _to_client(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(PIECE_BYTES):
                if self._flowing.is_set():
                    sink.write(data)
                    await sink.drain()
        self._left.set()
        if self._flowing.is_set():
            sink.close()

    def cut(self) -> None:
        """Reset both sides of every connection, as when a host loses power."""
        for writer in self._writers:
            writer.transport.abort()

    def swallow(self) -> None:
        """Forward nothing from now on, in either direction, as when the network is gone."""
        self._flowing.clear()

    async def closed_by_server(self, seconds: float) -> bool:
        """Return whether the server closes a connection within ``seconds``."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._left.wait(), seconds)
        return self._left.is_set()
