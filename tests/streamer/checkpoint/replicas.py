"""Replicas in this process with clocks that tests move, and calls that break off and go on."""

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

RATE = 8000
CHUNK = 800
Code = grpc.StatusCode


class ByName:
    """Who calls is what the metadata says; nobody if it says nothing."""

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

    def open(self, config, name=""):
        metadata = [("name", name)] if name else []
        return Talk(self, self.stub.StreamClassify(metadata=metadata, timeout=60), config)

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


class Talk:
    """One stream."""

    def __init__(self, replica, stream, config):
        self.replica, self.stream, self.config, self.responses = replica, stream, config, []

    async def begin(self):
        await self.stream.write(pb.StreamClassifyRequest(config=self.config))
        return self

    async def say(self, chunks, first=1):
        for sequence, data in enumerate(chunks, start=first):
            await self.stream.write(
                pb.StreamClassifyRequest(audio=pb.Audio(sequence=sequence, data=data))
            )

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
        """The first one that has heard so much.

        Where the student was late with the one before, none is due then: as the sweep does when
        one is overdue, they are asked for.
        """

        async def ask():
            while True:
                await asyncio.sleep(0.2)
                for call in self.replica.service.supervisor.calls:
                    call.request_checkpoint()

        asking = asyncio.create_task(ask())
        try:
            while (checkpoint := await self.until("checkpoint")).sequence < sequence:
                pass
        finally:
            asking.cancel()
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
    talk = await replica.open(config(**fields)).begin()
    await talk.say(chunks)
    assert (await talk.end())[0] is Code.OK
    (final,) = talk.finals
    assert final.speech_time.ToSeconds() > 2
    return final


async def broken_off(replica, chunks, heard, name="", **fields):
    """A call whose client vanishes; its checkpoint at ``heard`` messages."""
    talk = await replica.open(config(**fields), name).begin()
    whole = heard // 10 * 10
    for first in range(0, whole, 10):  # a second at a time: one checkpoint is made at once
        await talk.say(chunks[first : first + 10], first=first + 1)
        checkpoint = await talk.checkpoint(first + 10)
    await talk.say(chunks[whole:heard], first=whole + 1)
    talk.stream.cancel()
    await settled(replica)
    return checkpoint


async def only_call(replica):
    """The one call there is, once its config has come."""
    while not replica.service.supervisor.calls:
        await asyncio.sleep(0.005)
    (call,) = replica.service.supervisor.calls
    return call


async def settled(replica):
    while replica.service.supervisor.open_streams:
        await asyncio.sleep(0.005)


async def gone_on(replica, checkpoint, chunks, name="", **fields):
    """The rest of a call, unless it is refused; its stream, at its end."""
    talk = await replica.open(resuming(checkpoint, **fields), name).begin()
    try:
        await talk.until("started")
    except grpc.aio.AioRpcError:
        return talk
    await talk.say(chunks[checkpoint.sequence :], first=checkpoint.sequence + 1)
    await talk.end()
    return talk
