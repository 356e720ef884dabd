"""Scripted server that fails at given points; its responses depend on every audio byte."""

from __future__ import annotations

import asyncio
import json
import zlib
from dataclasses import asdict, dataclass, field
from types import SimpleNamespace

import grpc
import pytest

from streamer.client.api import Call
from streamer.client.replay_buffer import ReplayBuffer
from streamer.client.resumable import ResumableStream
from streamer.client.retry import RetryPolicy
from streamer.client.stream import Response, Stream
from streamer.rpc import voicecohort_pb2 as pb
from streamer.transport.converters import duration

Code = grpc.StatusCode
RATE = 8000
LABELS = pb.TaskLabels(labels=["even", "odd"])


def error_of(code, details="died", trailing=()):
    """An error as a stream raises it."""
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), details)


@dataclass
class Memory:
    """State of a call on a replica; a checkpoint is this as JSON.

    Attributes:
        received: sequence and bytes (hex) of every audio message, in order.
        digest: of what was listened to since the last discard.
        taken: requests handled, by which checkpoints are placed.
    """

    received: list = field(default_factory=list)
    samples: int = 0
    digest: int = 0
    held: bool = False
    speaking: bool = False
    taken: int = field(default=0, compare=False)

    @property
    def sequence(self):
        return self.received[-1][0] if self.received else 0

    @property
    def data(self):
        return b"".join(bytes.fromhex(data) for _, data in self.received)


class Replica:
    """One stream at a server of one channel: requests in, responses out.

    An odd first byte of a message means that speech begins or goes on, an even one that it ends.

    Args:
        checkpoints: numbers of the requests after which one is sent.
    """

    def __init__(self, checkpoints=()):
        self.checkpoints = checkpoints
        self.memory = Memory()

    def handle(self, request):
        kind = request.WhichOneof("message")
        if kind == "config":
            if request.config.resume_from:
                self.memory = Memory(**json.loads(request.config.resume_from))
            started = pb.Started(gender=LABELS, age_group=LABELS, age_band=LABELS)
            return [Response(started=started)]
        answers = self._audio(request.audio) if kind == "audio" else self._control(request.control)
        self.memory.taken += 1
        if self.memory.taken in self.checkpoints and self.memory.received:
            data = json.dumps(asdict(self.memory)).encode()
            checkpoint = pb.Checkpoint(data=data, sequence=self.memory.sequence)
            answers.append(Response(checkpoint=checkpoint))
        return answers

    def finish(self):
        return [*self._speech(False), self._prediction(final=True)]

    def _audio(self, audio):
        memory = self.memory
        assert audio.sequence > memory.sequence, "sent again although acknowledged"
        answers = [] if memory.held else self._speech(audio.data[0] % 2 == 1)
        memory.received.append([audio.sequence, audio.data.hex()])
        memory.samples += len(audio.data)
        if not memory.held:
            memory.digest = zlib.crc32(audio.data, memory.digest)
        return [*answers, self._prediction()]

    def _control(self, control):
        action = control.WhichOneof("action")
        answers = self._speech(False) if action in {"discard", "hold"} else []
        if action == "discard":
            self.memory.digest = 0
        else:
            self.memory.held = action == "hold"
        return answers

    def _speech(self, speaking):
        if speaking == self.memory.speaking:
            return []
        self.memory.speaking = speaking
        time = duration(self.memory.samples / RATE)
        return [Response(speech=pb.SpeechEvent(started=speaking, audio_time=time))]

    def _prediction(self, *, final=False):
        share = self.memory.digest / 2**32
        task = pb.TaskPrediction(posterior=[share, 1 - share], label="odd")
        prediction = pb.Prediction(
            sequence=self.memory.sequence,
            audio_time=duration(self.memory.samples / RATE),
            gender=task,
            age_group=task,
            age_band=task,
            final=final,
        )
        return Response(prediction=prediction)


@dataclass(frozen=True)
class Death:
    """How one stream ends.

    Attributes:
        requests: that it takes, the config among them.
        responses: that arrive before the error does.
        early_finals: it sends final predictions first, as a server does that shuts down.
        mute: it does not even take the config.
    """

    requests: int = 10**6
    responses: int = 10**6
    error: grpc.aio.AioRpcError = field(default_factory=lambda: error_of(Code.UNAVAILABLE))
    early_finals: bool = False
    mute: bool = False


class ScriptedStream(Stream):
    """A stream without gRPC, to a replica that dies as ``death`` defines, or not at all."""

    def __init__(self, replica, death=None):
        self.replica = replica
        self._death = death or Death(error=None)
        self._dead = False
        self._answers = asyncio.Queue()
        self._taken = self._read = 0
        self.closed = False
        self.written = []

    async def write(self, request):
        await (asyncio.Event().wait() if self._death.mute else asyncio.sleep(0))
        if self._dead:
            raise self._death.error
        if self._taken < self._death.requests:
            self._taken += 1
            self.written.append(request)
            for answer in self.replica.handle(request):
                self._answers.put_nowait(answer)
        if self._taken >= self._death.requests and not self._dead:
            self._die()

    def _die(self):
        if self._death.early_finals:
            for answer in self.replica.finish():
                self._answers.put_nowait(answer)
        self._dead = True
        self._answers.put_nowait(None)

    async def half_close(self):
        if not self._dead:
            for answer in self.replica.finish():
                self._answers.put_nowait(answer)
            self._answers.put_nowait(None)

    async def read(self):
        if self._read >= self._death.responses:
            self._dead = True
            raise self._death.error
        answer = await self._answers.get()
        if answer is None:
            if self._dead:
                raise self._death.error
            return None
        self._read += 1
        return answer

    async def close(self):
        self.closed = True


class Scene:
    """A resumable call to replicas that die in turn; the last one lives.

    Args:
        deaths: of one stream each.
        checkpoints: see :class:`Replica`.
        buffered: bytes of audio that may be buffered.
        seconds: of outage.
        back: what every sleep waits for.
    """

    def __init__(
        self, deaths=(), checkpoints=(), buffered=10**6, seconds=60.0, back=None, **options
    ):
        self.now = 0.0
        self.sleeps = []
        self.streams = []
        self._back = back
        self._deaths = list(deaths)
        self._checkpoints = checkpoints
        retry = RetryPolicy(seconds, clock=lambda: self.now, jitter=lambda: 0.0)
        self.buffer = ReplayBuffer(buffered)
        self.stream = ResumableStream(self._open, self.buffer, retry, self._sleep, **options)
        config = pb.StreamConfig(encoding=pb.AUDIO_ENCODING_MULAW, sample_rate=RATE)
        self.call = Call(self.stream, config)

    def _open(self):
        death = self._deaths.pop(0) if self._deaths else None
        self.streams.append(ScriptedStream(Replica(self._checkpoints), death))
        return self.streams[-1]

    async def _sleep(self, seconds):
        self.sleeps.append(seconds)
        self.now += seconds
        await (self._back.wait() if self._back else asyncio.sleep(0))


@pytest.fixture(scope="session")
def scripted():
    """Scene, Replica, ScriptedStream, Death and error_of."""
    return SimpleNamespace(
        Scene=Scene,
        Replica=Replica,
        ScriptedStream=ScriptedStream,
        Death=Death,
        error_of=error_of,
    )
