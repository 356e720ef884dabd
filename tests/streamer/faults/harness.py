"""A server whose faults the test causes, and calls to it."""

import asyncio
import contextlib
from types import SimpleNamespace

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from streamer.audio.codec import SAMPLE_RATE
from streamer.inference.engine import Engine
from streamer.inference.registry import ModelRegistry, ServedModel
from streamer.inference.watchdog import Watchdog
from streamer.observability.metrics import Metrics
from streamer.rpc import voicecohort_pb2 as pb
from streamer.rpc import voicecohort_pb2_grpc as pb_grpc
from streamer.service import ClassifierService
from streamer.settings import ServerSettings

WAIT_SECONDS = 20.0
Code = grpc.StatusCode
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class FaultyServer:
    """A service around a fake model, its watchdog and its health, in this process.

    The clock of the engine moves only when the test advances it.
    """

    def __init__(self, model, make_line, exit_seconds=0.0):
        self.model = model
        self.now = 100.0
        self.metrics = Metrics()
        self.engine = Engine(
            model,
            asyncio.get_running_loop().call_soon_threadsafe,
            on_batch=self.metrics.record_batch,
            timeout_seconds=5.0,
            clock=lambda: self.now,
        )
        self.models = ModelRegistry(ServedModel.of(self.engine), metrics=self.metrics)
        self.service = ClassifierService(self.models, ServerSettings(), metrics=self.metrics)
        self.exits = 0
        self.watchdog = Watchdog(
            self.models, self.metrics, self._set_health, self._exit, exit_seconds
        )
        self.server = grpc.aio.server()
        self.health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self.server)
        pb_grpc.add_ClassifierServiceServicer_to_server(self.service, self.server)
        port = self.server.add_insecure_port("127.0.0.1:0")
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        self.line = make_line(f"127.0.0.1:{port}")
        self.health_stub = health_pb2_grpc.HealthStub(self.channel)

    async def start(self):
        await self.server.start()
        await self._set_health(True)

    async def stop(self):
        self.model.gate.set()
        self.model.freed.set()
        await self.channel.close()
        await self.server.stop(None)
        await asyncio.to_thread(self.engine.stop)

    def _exit(self):
        self.exits += 1

    async def _set_health(self, healthy):
        await self.health.set("", SERVING if healthy else NOT_SERVING)

    async def status(self):
        """The health that a client sees."""
        request = health_pb2.HealthCheckRequest()
        return (await self.health_stub.Check(request, timeout=10)).status

    async def check(self, seconds=0.0):
        """Let time pass; a step is stuck if two checks find it overdue."""
        self.now += seconds
        await self.watchdog.check()
        await self.watchdog.check()

    async def recover(self):
        """Check until a probe is answered; no time passes but between probes."""
        async with asyncio.timeout(WAIT_SECONDS):
            while not self.engine.health.healthy:
                await self.check(0.5)
                await asyncio.sleep(0.01)
        await self.watchdog.check()

    def open(self, *requests):
        return Stream(self.line, requests)

    async def call(self, samples, call_id=""):
        """A call from config to status."""
        stream = self.open(config(call_id), audio(1, samples))
        stream.half_close()
        return await stream.outcome()

    def metric(self, name, **labels):
        return self.metrics.registry.get_sample_value(f"voicecohort_{name}", labels) or 0.0


class Stream:
    """A call on gRPC's own threads: asyncio's client loses a status that comes while it writes."""

    def __init__(self, line, requests):
        self._call = line.open(*requests)
        self.send = self._call.send
        self.half_close = self._call.half_close

    async def outcome(self):
        """Code, details, final posteriors, and whether the caller may retry."""
        outcome = await asyncio.to_thread(self._call.outcome)
        return SimpleNamespace(
            code=outcome.code,
            details=outcome.details,
            finals=[
                (f.speech_time.ToTimedelta(), *f.gender.posterior)
                for f in outcome.predictions
                if f.final
            ],
            retry=outcome.error is not None and rpc_status.from_call(outcome.error) is not None,
        )


def config(call_id=""):
    return pb.StreamClassifyRequest(
        config=pb.StreamConfig(
            encoding=pb.AUDIO_ENCODING_LINEAR16, sample_rate=SAMPLE_RATE, call_id=call_id
        )
    )


def audio(sequence, samples):
    return pb.StreamClassifyRequest(audio=pb.Audio(sequence=sequence, data=samples.tobytes()))


@contextlib.asynccontextmanager
async def undisturbed_call(server, noise):
    """A call around the fault, whose predictions must be those of a call without faults."""
    expected = await server.call(noise)
    assert expected.code is Code.OK
    assert len(expected.finals) == 1
    stream = server.open(config(), audio(1, noise[:SAMPLE_RATE]))
    await until(
        lambda: any(
            c.messages == 1 and not c.session.backlog.blocks
            for c in server.service.supervisor.calls
        )
    )
    yield
    stream.send(audio(2, noise[SAMPLE_RATE:]))
    stream.half_close()
    outcome = await stream.outcome()
    assert (outcome.code, outcome.details) == (Code.OK, "")
    assert outcome.finals == expected.finals


async def until(condition):
    async with asyncio.timeout(WAIT_SECONDS):
        while not condition():
            await asyncio.sleep(0.01)
