"""A server that faults are injected into, and calls to it."""

import asyncio
import contextlib
from types import SimpleNamespace

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from streamer.call.admission import Policy
from streamer.inference.engine import Engine
from streamer.inference.registry import ModelRegistry, ServedModel
from streamer.inference.watchdog import Watchdog
from streamer.observability.metrics import Metrics
from streamer.rpc import voicecohort_pb2 as pb
from streamer.rpc import voicecohort_pb2_grpc as pb_grpc
from streamer.service import ClassifierService

RATE = 8000
WAIT = 20.0
Code = grpc.StatusCode
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Hurt:
    """A service around a fake student, its watchdog and its health, in this process.

    The clock of the engine moves only when the test turns it.
    """

    def __init__(self, student, make_line, exit_seconds=0.0):
        self.student = student
        self.now = 100.0
        self.metrics = Metrics()
        self.engine = Engine(
            student,
            asyncio.get_running_loop().call_soon_threadsafe,
            on_batch=self.metrics.stepped,
            timeout_seconds=5.0,
            clock=lambda: self.now,
        )
        self.models = ModelRegistry(ServedModel.of(self.engine), metrics=self.metrics)
        self.service = ClassifierService(self.models, Policy(), metrics=self.metrics)
        self.gave_up = []
        self.watchdog = Watchdog(
            self.models, self.metrics, self._say, lambda: self.gave_up.append(1), exit_seconds
        )
        self.server = grpc.aio.server()
        self.health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self.server)
        pb_grpc.add_ClassifierServiceServicer_to_server(self.service, self.server)
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{self.port}")
        self.line = make_line(f"127.0.0.1:{self.port}")
        self.asking = health_pb2_grpc.HealthStub(self.channel)

    async def _say(self, healthy):
        await self.health.set("", SERVING if healthy else NOT_SERVING)

    async def says(self):
        return (await self.asking.Check(health_pb2.HealthCheckRequest(), timeout=10)).status

    async def look(self, seconds=0.0):
        """Let time pass; a step is stuck if two looks find it so."""
        self.now += seconds
        await self.watchdog.check()
        await self.watchdog.check()

    async def recovers(self):
        """Look until the probe is answered; no time passes but between probes."""
        async with asyncio.timeout(WAIT):
            while not self.engine.health.healthy:
                await self.look(0.5)
                await asyncio.sleep(0.01)
        await self.watchdog.check()

    def open(self, *requests):
        return Stream(self.line, requests)

    async def whole(self, samples):
        """A call from config to status."""
        stream = self.open(*speech(samples))
        stream.half_close()
        return await stream.outcome()

    async def start(self):
        await self.server.start()
        await self._say(True)

    def counted(self, name, **labels):
        return self.metrics.registry.get_sample_value(f"voicecohort_{name}", labels) or 0.0


class Stream:
    """A call by gRPC's own threads: asyncio's client loses a status that comes while it writes."""

    def __init__(self, line, requests):
        self._call = line.open(*requests)

    def send(self, *requests):
        self._call.send(*requests)

    def half_close(self):
        self._call.half_close()

    async def outcome(self):
        """Code, details, final posteriors, whether it may try again."""
        ended = await asyncio.to_thread(self._call.outcome)
        return SimpleNamespace(
            code=ended.code,
            details=ended.details,
            finals=[
                (f.speech_time.ToTimedelta(), *f.gender.posterior)
                for f in ended.predictions
                if f.final
            ],
            retry=ended.error is not None and rpc_status.from_call(ended.error) is not None,
        )


def config(call_id=""):
    return pb.StreamClassifyRequest(
        config=pb.StreamConfig(
            encoding=pb.AUDIO_ENCODING_LINEAR16, sample_rate=RATE, call_id=call_id
        )
    )


def sound(sequence, samples):
    return pb.StreamClassifyRequest(audio=pb.Audio(sequence=sequence, data=samples.tobytes()))


def speech(samples, call_id=""):
    return config(call_id), sound(1, samples)


@contextlib.asynccontextmanager
async def neighbour(local, noise):
    """A call around the fault that must end as if nothing had been."""
    quiet = await local.whole(noise)
    assert quiet.code is Code.OK
    assert len(quiet.finals) == 1
    stream = local.open(config(), sound(1, noise[:RATE]))

    def received():
        return any(c.messages == 1 and not c.session.backlog for c in local.service._calls)

    await until(received)
    yield
    stream.send(sound(2, noise[RATE:]))
    stream.half_close()
    outcome = await stream.outcome()
    assert (outcome.code, outcome.details) == (Code.OK, "")
    assert outcome.finals == quiet.finals


async def until(condition):
    async with asyncio.timeout(WAIT):
        while not condition():
            await asyncio.sleep(0.01)
