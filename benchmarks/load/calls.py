"""Live calls paced in real time, open loop: what one generator process does.

Every chunk leaves when its audio has ended, however late answers are, so a slow server cannot slow
its own measurement (no coordinated omission). The latency of a chunk that a prediction is owed for
runs from the moment it was due to be sent (or was sent: timers may be 1 ms early) until a
prediction that acknowledges it arrives; one that an overloaded server skipped counts until its
successor. The audio is the demo call, each side by itself, from a different point in every call:
about half of it is silence.

Made to be cheap, since one core must drive a thousand calls: bytes that are coded beforehand, raw
gRPC, one task a call for sending and one for reading. :mod:`load.run` starts the processes.
"""

from __future__ import annotations

import asyncio
import functools
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from load import polling  # noqa: F401 - how gRPC polls is settled when it is loaded

# isort: split
import grpc
import numpy as np
import soundfile
import uvloop

from load.trunk import Line, Trunk
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
"""Different calls; more calls than that share them."""
UPDATE_MS = 500
"""Audio between two predictions, the server's default."""
SPREAD_SECONDS = 3.0
"""Over which the calls of a plan start, unless it says otherwise."""
GRACE_SECONDS = 10.0
"""How long a final prediction may take before its call is given up as lost."""
HIDDEN = "Internal error from Core"
"""In place of the status of a stream whose end a write has met (grpc issue 36066)."""
CHANNEL_OPTIONS = (("grpc.use_local_subchannel_pool", 1),)  # else all share one connection


Own: TypeAlias = grpc.aio.StreamStreamCall[bytes, bytes]
Stream: TypeAlias = Own | Line
Open: TypeAlias = Callable[[], Stream]


@dataclass(frozen=True)
class Plan:
    """What one generator process is to do.

    Attributes:
        target: HOST:PORT.
        calls: of all processes together.
        seconds: length of every call.
        window: seconds since ``begin`` within which chunks count towards latency.
        numbers: of this process's calls among all.
        begin: on the clock of ``time.monotonic``, when the first of all calls starts.
        chunk_ms: audio in a message.
        calls_per_connection: gRPC channels are shared by so many.
        trunk_ms: the calls of a connection are one stream, on which this process sends so often;
            0 makes a stream of each.
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
class Seen:
    """What one process, or several together, saw.

    Attributes:
        due: seconds since the plan's begin when each acknowledged chunk was to be sent.
        latency: seconds until its acknowledgement arrived, one for each ``due``.
        lateness: seconds that the generator itself was late, within the window.
        arrivals: seconds since begin of every prediction but final ones.
        finals: calls that got their final prediction.
        refused_at: seconds since begin when calls were turned away before they were accepted.
        errors: of lost calls, "STATUS: details".
        lost_at: seconds since begin when each lost call broke off.
        answers: recording, chunks that were sent, and final prediction (serialised) of each call.
        speech_seconds, audio_seconds: as the final predictions say.
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
        """Calls that never began."""
        return len(self.refused_at)

    def add(self, other: Seen) -> None:
        """Count another process's calls too."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


@functools.cache
def recordings(chunk_ms: int, seed: int) -> list[tuple[bytes, list[bytes]]]:
    """Config message and coded chunks of each of the different calls; chunks are repeated."""
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


def owed(sequence: int, chunk_ms: int) -> bool:
    """Whether a prediction is due after this chunk: it is the first past an update interval."""
    return sequence * chunk_ms % UPDATE_MS < chunk_ms


class Generator:
    """Runs one plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.seen = Seen()
        self.chunks = int(plan.seconds * 1000) // plan.chunk_ms
        self._recordings = recordings(plan.chunk_ms, plan.seed)

    async def run(self) -> Seen:
        """All calls to their end."""
        plan = self.plan
        connections = -(-len(plan.numbers) // plan.calls_per_connection)
        channels = [
            grpc.aio.insecure_channel(plan.target, options=CHANNEL_OPTIONS)
            for _ in range(connections)
        ]
        trunks = [Trunk(channel, plan.trunk_ms / 1000) for channel in channels]
        opens: list[Open] = (
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
        return self.seen

    async def _meter(self) -> None:
        begin, end = (self.plan.begin + edge for edge in self.plan.window)
        await asyncio.sleep(begin - time.monotonic())
        before = time.process_time()
        await asyncio.sleep(end - time.monotonic())
        self.seen.cpu_seconds = time.process_time() - before

    async def _call(self, number: int, open_stream: Open) -> None:
        """One call; counted as final, refused or lost, exactly once."""
        plan, seen = self.plan, self.seen
        # Anywhere in its turn: else all that start a hundred a second send in the same ten moments
        # of a tenth of a second.
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
                    self._lost("the stream ended without a final prediction")
        except grpc.aio.AioRpcError as error:
            full = error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED or error.details() == HIDDEN
            if full and not accepted.is_set():
                seen.refused_at.append(time.monotonic() - plan.begin)
            else:
                self._lost(f"{error.code().name}: {error.details()}")
        except TimeoutError:
            self._lost(f"no final prediction within {GRACE_SECONDS:g} s of the call's end")
        finally:
            stream.cancel()
            sending.cancel()
            # What breaks a stream is told by its reading side.
            await asyncio.gather(sending, return_exceptions=True)

    def _lost(self, reason: str) -> None:
        self.seen.errors.append(reason)
        self.seen.lost_at.append(time.monotonic() - self.plan.begin)

    async def _send(
        self,
        number: int,
        begin: float,
        stream: Stream,
        early: dict[int, float],
        accepted: asyncio.Event,
    ) -> None:
        """Each chunk when it is due; a timer of 1 ms may be early, which ``early`` is told.

        Audio waits for the call to be accepted, as a gateway's does: a write that meets the end of
        a refused stream would hide its status (grpc issue 36066).
        """
        config, chunks = self._recordings[number % RECORDINGS]
        window = [self.plan.begin + edge for edge in self.plan.window]
        step, write, clock = self.plan.chunk_ms / 1000, stream.write, time.monotonic
        lateness = self.seen.lateness
        await write(config)
        await accepted.wait()
        free = clock()
        for sequence in range(1, self.chunks + 1):
            audio = pb.Audio(sequence=sequence, data=chunks[(sequence - 1) % len(chunks)])
            message = pb.StreamClassifyRequest(audio=audio).SerializeToString()
            due = begin + sequence * step
            if due > free:
                await asyncio.sleep(due - free)
                if (now := clock()) < due and owed(sequence, self.plan.chunk_ms):
                    early[sequence] = now
            if window[0] <= due < window[1]:
                # A server that does not read holds up `free`: that is not the generator's fault.
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
        """Read to the end; whether there was a final prediction."""
        plan, seen, step = self.plan, self.seen, self.plan.chunk_ms / 1000
        paid, final = 0, False
        parse = pb.StreamClassifyResponse.FromString
        while isinstance(data := await stream.read(), bytes):
            now = time.monotonic()
            accepted.set()
            response = parse(data)
            if response.WhichOneof("message") != "prediction":
                continue
            prediction = response.prediction
            for sequence in range(paid + 1, min(prediction.sequence, self.chunks) + 1):
                if not owed(sequence, plan.chunk_ms):
                    continue
                due = early.pop(sequence, begin + sequence * step)
                if plan.window[0] <= due - plan.begin < plan.window[1]:
                    seen.due.append(due - plan.begin)
                    seen.latency.append(now - due)
            paid = max(paid, prediction.sequence)
            if prediction.final:
                final = True
                seen.finals += 1
                answer = prediction.SerializeToString()
                seen.answers.append((number % RECORDINGS, self.chunks, answer))
                speech, audio = prediction.speech_time, prediction.audio_time
                seen.speech_seconds += speech.seconds + speech.nanos / 1e9
                seen.audio_seconds += audio.seconds + audio.nanos / 1e9
            else:
                seen.arrivals.append(now - plan.begin)
        return final


def generate(plan: Plan) -> Seen:
    """Run a plan in this process."""
    return uvloop.run(Generator(plan).run())
