"""Replicas in this process with a settable clock, and calls that are interrupted and resumed."""

import asyncio
import contextlib

import grpc
from google.protobuf.duration_pb2 import Duration
from prometheus_client import generate_latest

from streamer.checkpoint.resumption import Resumption
from streamer.checkpoint.serialization import Checkpoints
from streamer.inference.engine import Engine
from streamer.inference.registry import ModelRegistry, ServedModel
from streamer.observability.metrics import Metrics
from streamer.rpc import voicecohort_pb2 as pb
from streamer.rpc import voicecohort_pb2_grpc as pb_grpc
from streamer.security.encryption import Keys, Sealer
from streamer.security.identity import Caller
from streamer.service import ClassifierService
from tests.streamer.in_process import until
from tests.streamer.wire import RATE, Code, sound

CHUNK = 800


class ByName:
    """Identities from the metadata of the stream."""

    def refresh(self):
        pass

    def caller(self, stream):
        names = [value for key, value in stream.invocation_metadata() if key == "name"]
        return Caller(names[0]) if names else Caller("192.0.2.1", proven=False)


class Replica:
    """A server around a fake student."""

    def __init__(self, student, keys, clock, settings):
        self.student, self.clock = student, clock
        self.engine = Engine(student, asyncio.get_running_loop().call_soon_threadsafe)
        self.metrics = Metrics()
        self.models = ModelRegistry(ServedModel.of(self.engine))
        resumption = None
        if keys is not None:
            sealer = Sealer(Keys(keys), 300.0, lambda: 1e9 + clock.now)
            resumption = Resumption(Checkpoints(sealer), 300.0, self.metrics, lambda: clock.now)
        self.service = ClassifierService(
            self.models, settings, lambda: clock.now, self.metrics, ByName(), resumption
        )
        self.server = grpc.aio.server()
        pb_grpc.add_ClassifierServiceServicer_to_server(self.service, self.server)
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{self.port}")
        self.stub = pb_grpc.ClassifierServiceStub(self.channel)

    async def start(self, config, name=""):
        """Open a stream and send its config."""
        metadata = [("name", name)] if name else []
        stream = self.stub.StreamClassify(metadata=metadata, timeout=60)
        await stream.write(pb.StreamClassifyRequest(config=config))
        return Stream(self, stream)

    async def outcome(self, config):
        """Code and details of a stream that sends this config only."""
        return await (await self.start(config)).outcome()

    def count(self, metric):
        """Value of a sample, labels included in its name; 0 if there is none."""
        for line in generate_latest(self.metrics.registry).decode().splitlines():
            if line.startswith(f"voicecohort_{metric} "):
                return float(line.rpartition(" ")[2])
        return 0.0

    async def stop(self):
        await self.channel.close()
        await self.server.stop(None)
        self.student.gate.set()
        await asyncio.to_thread(self.engine.stop)


class Stream:
    """One stream."""

    def __init__(self, replica, stream):
        self.replica, self.stream, self.responses = replica, stream, []

    async def send(self, chunks, first=1):
        for sequence, data in enumerate(chunks, start=first):
            await self.stream.write(sound(sequence, data))

    async def next(self):
        response = await self.stream.read()
        if response is grpc.aio.EOF:
            return None
        self.responses.append(response)
        return response

    async def until(self, kind):
        while (response := await self.next()) is not None:
            if response.WhichOneof("message") == kind:
                return getattr(response, kind)
        raise AssertionError(f"no {kind} before the end")

    async def checkpoint(self, sequence):
        """Read the first checkpoint at or after this message; request overdue ones."""

        async def request():
            while True:
                await asyncio.sleep(0.2)
                for call in self.replica.service.supervisor.calls:
                    call.request_checkpoint()

        requests = asyncio.create_task(request())
        try:
            while (checkpoint := await self.until("checkpoint")).sequence < sequence:
                pass
        finally:
            requests.cancel()
        return checkpoint

    async def end(self):
        """Half-close and read to the end; code and details."""
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await self.stream.done_writing()
        return await self.outcome()

    async def outcome(self):
        with contextlib.suppress(grpc.aio.AioRpcError):
            while await self.next() is not None:
                pass
        return await self.stream.code(), await self.stream.details()

    def kinds(self):
        return [response.WhichOneof("message") for response in self.responses]

    @property
    def finals(self):
        found = [r.prediction for r in self.responses if r.prediction.final]
        assert len({p.channel for p in found}) == len(found)
        return found


def config(**fields):
    defaults = {
        "call_id": "call-1",
        "encoding": pb.AUDIO_ENCODING_MULAW,
        "sample_rate": RATE,
        "update_interval": Duration(seconds=60),
        "checkpoint_interval": Duration(seconds=1),
    }
    return pb.StreamConfig(**(defaults | fields))


def resuming(checkpoint, **fields):
    return config(resume_from=checkpoint.data, **fields)


async def uninterrupted(replica, chunks, **fields):
    stream = await replica.start(config(**fields))
    await stream.send(chunks)
    assert (await stream.end())[0] is Code.OK
    (final,) = stream.finals
    assert final.speech_time.ToSeconds() > 2
    return final


async def interrupted(replica, chunks, received, name="", **fields):
    """Cancel a call after so many messages; returns its last checkpoint."""
    stream = await replica.start(config(**fields), name)
    whole = received // 10 * 10
    for first in range(0, whole, 10):  # a second at a time: one checkpoint is made at once
        await stream.send(chunks[first : first + 10], first=first + 1)
        checkpoint = await stream.checkpoint(first + 10)
    await stream.send(chunks[whole:received], first=whole + 1)
    stream.stream.cancel()
    await settled(replica)
    return checkpoint


async def only_call(replica):
    """Wait for the config of the only call."""
    await until(lambda: replica.service.supervisor.calls)
    (call,) = replica.service.supervisor.calls
    return call


async def settled(replica):
    await until(lambda: not replica.service.supervisor.open_streams)


async def resume(replica, checkpoint, chunks, name="", **fields):
    """Resume a call and send its rest unless it is refused; returns the ended stream."""
    stream = await replica.start(resuming(checkpoint, **fields), name)
    try:
        await stream.until("started")
    except grpc.aio.AioRpcError:
        return stream
    await stream.send(chunks[checkpoint.sequence :], first=checkpoint.sequence + 1)
    await stream.end()
    return stream
