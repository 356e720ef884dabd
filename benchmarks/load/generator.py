"""Make live calls paced in real time, open loop: the work of one generator process.

Send every chunk when its audio has ended, however late predictions are, so that a slow server
cannot slow its own measurement (coordinated omission: G. Tene, "How NOT to Measure Latency", 2015).
The latency of a chunk that is due a prediction runs from the moment it was due to be sent (or was
sent: timers may be 1 ms early) until a prediction that acknowledges it arrives. A chunk that an
overloaded server skipped counts until the next prediction. The audio is the demo call, each side by
itself, from a different point in every call; about half of it is silence.

One core must drive a thousand calls, so audio is encoded beforehand, gRPC carries raw bytes, and a
call has one task for sending and one for reading. :mod:`load.processes` starts the processes.
"""

from __future__ import annotations

import asyncio
import functools
import multiprocessing
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

# Before gRPC is imported: without its event engine a generator of 200 calls costs 1.03 instead of
# 1.36 CPU-ms per call-second. Only in spawned processes; the server inherits the environment.
if multiprocessing.parent_process() is not None:
    os.environ["GRPC_EXPERIMENTS"] = "-event_engine_client,-event_engine_listener"

# isort: split
import grpc
import numpy as np
import soundfile
import uvloop
from load.trunk_generator import TrunkGenerator, TrunkLine

from streamer.audio.codec import SAMPLE_RATE, Encoding, encode
from streamer.rpc import voicecohort_pb2 as pb

DEMO = Path(__file__).parents[2] / "streamer" / "demo" / "dialogue.wav"
METHOD = "/voicecohort.v1.ClassifierService/StreamClassify"
ENCODINGS = (
    (pb.AUDIO_ENCODING_MULAW, Encoding.MULAW),
    (pb.AUDIO_ENCODING_ALAW, Encoding.ALAW),
    (pb.AUDIO_ENCODING_LINEAR16, Encoding.LINEAR16),
)
RECORDINGS = 48
"""Different calls; further calls repeat them."""
UPDATE_MS = 500
"""Audio between two predictions: the server's default."""
SPREAD_SECONDS = 3.0
"""Default of :attr:`Plan.spread`."""
GRACE_SECONDS = 10.0
"""After a call's end, before a call without its final prediction counts as lost."""
HIDDEN = "Internal error from Core"
"""Details that replace the status of a stream that ends during a write (grpc issue 36066)."""
CHANNEL_OPTIONS = (("grpc.use_local_subchannel_pool", 1),)  # else all share one connection


RawStream: TypeAlias = grpc.aio.StreamStreamCall[bytes, bytes]
Stream: TypeAlias = RawStream | TrunkLine
OpenStream: TypeAlias = Callable[[], Stream]


@dataclass(frozen=True)
class Plan:
    """The calls of one generator process.

    Attributes:
        target: HOST:PORT.
        calls: of all processes together.
        seconds: length of every call.
        window: seconds since ``begin`` within which chunks count towards latency.
        numbers: of this process's calls among all.
        begin: on the clock of ``time.monotonic``, when the first of all calls starts.
        chunk_ms: audio in a message.
        calls_per_connection: calls that share a gRPC channel.
        trunk_ms: interval at which a trunk sends; the calls of a connection share a trunk. 0 gives
            each call a stream of its own.
        seed: of where in the demo call each call begins.
        spread: seconds over which the calls start, one after another.
    """

    target: str
    calls: int
    seconds: float
    window: tuple[float, float]
    numbers: range = range(0)
    begin: float = 0.0
    chunk_ms: int = 100
    calls_per_connection: int = 50
    trunk_ms: float = 0.0
    seed: int = 1
    spread: float = SPREAD_SECONDS


@dataclass
class Observations:
    """What the calls of one process, or of several together, received.

    Attributes:
        due: seconds since the plan's begin when each acknowledged chunk was to be sent.
        latency: seconds until its acknowledgement arrived, one for each ``due``.
        lateness: seconds by which the generator itself was late, within the window.
        arrivals: seconds since begin of every prediction but final ones.
        finals: calls that got their final prediction.
        refused_at: seconds since begin when calls were refused before they were accepted.
        errors: of lost calls, "STATUS: details".
        lost_at: seconds since begin when each lost call broke off.
        answers: recording, chunks sent, and serialised final prediction of each call.
        speech_seconds, audio_seconds: sums over the final predictions.
        cpu_seconds: of the process, within the window.
    """

    due: list[float] = field(default_factory=list)
    latency: list[float] = field(default_factory=list)
    lateness: list[float] = field(default_factory=list)
    arrivals: list[float] = field(default_factory=list)
    finals: int = 0
    refused_at: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    lost_at: list[float] = field(default_factory=list)
    answers: list[tuple[int, int, bytes]] = field(default_factory=list)
    speech_seconds: float = 0.0
    audio_seconds: float = 0.0
    cpu_seconds: float = 0.0

    @property
    def refused(self) -> int:
        """Number of calls that were refused."""
        return len(self.refused_at)

    def add(self, other: Observations, shift_seconds: float = 0.0) -> None:
        """Add those of another process, whose plan began ``shift_seconds`` after this one's."""
        for name, value in vars(other).items():
            if name in {"due", "arrivals", "refused_at", "lost_at"}:
                value = [at + shift_seconds for at in value]  # noqa: PLW2901
            setattr(self, name, getattr(self, name) + value)


@functools.cache
def recordings(chunk_ms: int, seed: int) -> list[tuple[bytes, list[bytes]]]:
    """Make the config message and the encoded chunks of each recording; calls repeat them."""
    sides, _ = soundfile.read(DEMO, dtype="int16", always_2d=True)
    shuffle = random.Random(seed)
    length = SAMPLE_RATE * chunk_ms // 1000
    made = []
    for number in range(RECORDINGS):
        name, encoding = ENCODINGS[number % len(ENCODINGS)]
        audio = np.roll(sides[:, number % 2], -shuffle.randrange(len(sides)))
        coded = encode(audio[: len(audio) // length * length], encoding)
        size = length * encoding.width
        config = pb.StreamConfig(encoding=name, sample_rate=SAMPLE_RATE)
        chunks = [coded[at : at + size] for at in range(0, len(coded), size)]
        made.append((pb.StreamClassifyRequest(config=config).SerializeToString(), chunks))
    return made


def prediction_due(sequence: int, chunk_ms: int) -> bool:
    """Return whether a chunk is the first past an update interval, so that a prediction is due."""
    return sequence * chunk_ms % UPDATE_MS < chunk_ms


class Generator:
    """Run one plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.observed = Observations()
        self.chunks = int(plan.seconds * 1000) // plan.chunk_ms
        self._recordings = recordings(plan.chunk_ms, plan.seed)

    async def run(self) -> Observations:
        """Run all calls to their end."""
        plan = self.plan
        connections = -(-len(plan.numbers) // plan.calls_per_connection)
        channels = [
            grpc.aio.insecure_channel(plan.target, options=CHANNEL_OPTIONS)
            for _ in range(connections)
        ]
        trunks = [TrunkGenerator(channel, plan.trunk_ms / 1000) for channel in channels]
        opens: list[OpenStream] = (
            [*trunks] if plan.trunk_ms else [channel.stream_stream(METHOD) for channel in channels]
        )
        metering = asyncio.create_task(self._meter())
        try:
            await asyncio.gather(
                *(
                    self._call(number, opens[index % connections])
                    for index, number in enumerate(plan.numbers)
                )
            )
            await metering
        finally:
            for trunk in trunks:
                await trunk.close()
            for channel in channels:
                await channel.close()
        return self.observed

    async def _meter(self) -> None:
        begin, end = (self.plan.begin + edge for edge in self.plan.window)
        await asyncio.sleep(begin - time.monotonic())
        before = time.process_time()
        await asyncio.sleep(end - time.monotonic())
        self.observed.cpu_seconds = time.process_time() - before

    async def _call(self, number: int, open_stream: OpenStream) -> None:
        """Run one call; count it as final, refused or lost, exactly once."""
        plan, observed = self.plan, self.observed
        # A random offset: calls that start at regular times would all send at the same moments.
        turn = number + random.Random(f"{plan.seed} {number}").random()
        begin = plan.begin + turn / plan.calls * plan.spread
        await asyncio.sleep(begin - time.monotonic())
        stream = open_stream()
        early: dict[int, float] = {}
        accepted = asyncio.Event()
        sending = asyncio.create_task(self._send(number, begin, stream, early, accepted))
        try:
            async with asyncio.timeout(begin + plan.seconds + GRACE_SECONDS - time.monotonic()):
                if not await self._receive(number, begin, stream, early, accepted):
                    self._record_lost("the stream ended without a final prediction")
        except grpc.aio.AioRpcError as error:
            full = error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED or error.details() == HIDDEN
            if full and not accepted.is_set():
                observed.refused_at.append(time.monotonic() - plan.begin)
            else:
                self._record_lost(f"{error.code().name}: {error.details()}")
        except TimeoutError:
            self._record_lost(f"no final prediction within {GRACE_SECONDS:g} s of the call's end")
        finally:
            stream.cancel()
            sending.cancel()
            # The reading side has recorded what broke the stream.
            await asyncio.gather(sending, return_exceptions=True)

    def _record_lost(self, reason: str) -> None:
        self.observed.errors.append(reason)
        self.observed.lost_at.append(time.monotonic() - self.plan.begin)

    async def _send(
        self,
        number: int,
        begin: float,
        stream: Stream,
        early: dict[int, float],
        accepted: asyncio.Event,
    ) -> None:
        """Send each chunk when it is due; note in ``early`` when a timer was up to 1 ms early.

        Audio waits until the call is accepted, as a gateway's does: a write to a stream that ends
        with a refusal would hide its status (grpc issue 36066).
        """
        config, chunks = self._recordings[number % RECORDINGS]
        window = [self.plan.begin + edge for edge in self.plan.window]
        step, write, clock = self.plan.chunk_ms / 1000, stream.write, time.monotonic
        lateness = self.observed.lateness
        await write(config)
        await accepted.wait()
        free = clock()
        for sequence in range(1, self.chunks + 1):
            audio = pb.Audio(sequence=sequence, data=chunks[(sequence - 1) % len(chunks)])
            message = pb.StreamClassifyRequest(audio=audio).SerializeToString()
            due = begin + sequence * step
            if due > free:
                await asyncio.sleep(due - free)
                if (now := clock()) < due and prediction_due(sequence, self.plan.chunk_ms):
                    early[sequence] = now
            if window[0] <= due < window[1]:
                # A server that does not read delays `free`; the generator is not late then.
                lateness.append(max(0.0, clock() - max(due, free)))
            await write(message)
            free = clock()
        await stream.done_writing()

    async def _receive(
        self,
        number: int,
        begin: float,
        stream: Stream,
        early: dict[int, float],
        accepted: asyncio.Event,
    ) -> bool:
        """Read to the end; return whether there was a final prediction."""
        plan, observed, step = self.plan, self.observed, self.plan.chunk_ms / 1000
        acknowledged, final = 0, False
        parse = pb.StreamClassifyResponse.FromString
        while isinstance(data := await stream.read(), bytes):
            now = time.monotonic()
            accepted.set()
            response = parse(data)
            if response.WhichOneof("message") != "prediction":
                continue
            prediction = response.prediction
            for sequence in range(acknowledged + 1, min(prediction.sequence, self.chunks) + 1):
                if not prediction_due(sequence, plan.chunk_ms):
                    continue
                due = early.pop(sequence, begin + sequence * step)
                if plan.window[0] <= due - plan.begin < plan.window[1]:
                    observed.due.append(due - plan.begin)
                    observed.latency.append(now - due)
            acknowledged = max(acknowledged, prediction.sequence)
            if prediction.final:
                final = True
                observed.finals += 1
                answer = prediction.SerializeToString()
                observed.answers.append((number % RECORDINGS, self.chunks, answer))
                speech, audio = prediction.speech_time, prediction.audio_time
                observed.speech_seconds += speech.seconds + speech.nanos / 1e9
                observed.audio_seconds += audio.seconds + audio.nanos / 1e9
            else:
                observed.arrivals.append(now - plan.begin)
        return final


def generate(plan: Plan) -> Observations:
    """Run a plan in this process."""
    return uvloop.run(Generator(plan).run())
