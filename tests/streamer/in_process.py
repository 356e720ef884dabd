"""The service around a fake student, in this process."""

import asyncio
import contextlib
import time

import grpc

from streamer.inference.engine import Engine
from streamer.inference.registry import ModelRegistry, ServedModel
from streamer.observability.metrics import Metrics
from streamer.rpc import voicecohort_pb2_grpc as pb_grpc
from streamer.service import ClassifierService
from streamer.settings import ServerSettings
from streamer.transport.trunk import TrunkService
from tests.streamer.doubles import FakeModel


class Local:
    """The service around a fake student, in this process."""

    def __init__(self, student, settings, identities):
        self.student = student
        self.engine = Engine(student, asyncio.get_running_loop().call_soon_threadsafe)
        self.clock = time.monotonic
        self.metrics = Metrics()
        self.service = ClassifierService(
            ModelRegistry(ServedModel.of(self.engine)),
            settings,
            self._now,
            self.metrics,
            identities,
        )
        self.server = grpc.aio.server()
        pb_grpc.add_ClassifierServiceServicer_to_server(self.service, self.server)
        TrunkService(self.service, settings.max_calls, settings.idle_timeout).add_to(self.server)
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{self.port}")
        self.stub = pb_grpc.ClassifierServiceStub(self.channel)

    def _now(self):
        return self.clock()

    async def outcome(self, *requests):
        """Code, details and final predictions of a call."""
        stream = self.stub.StreamClassify(iter(requests), timeout=30)
        finals = []
        with contextlib.suppress(grpc.aio.AioRpcError):
            finals.extend([r.prediction async for r in stream if r.prediction.final])
        return await stream.code(), await stream.details(), finals

    async def stop(self):
        await self.channel.close()
        await self.server.stop(None)
        self.student.gate.set()
        await asyncio.to_thread(self.engine.stop)


class Context:
    """The stream of a gateway that sends these requests and never reads, as gRPC shows it."""

    def __init__(self, *requests):
        self.requests = list(requests)
        self.aborted = None

    def invocation_metadata(self):
        return ()

    async def read(self):
        return self.requests.pop(0) if self.requests else None

    async def write(self, _):
        await asyncio.Event().wait()

    async def abort(self, *status):
        self.aborted = status

    def peer(self):
        return "ipv4:192.0.2.1:4711"

    def auth_context(self):
        return {}


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


@contextlib.contextmanager
def serve_locally(run_async, identities, options):
    """Start and stop a server with these settings."""

    async def start():
        local = Local(FakeModel(), ServerSettings(**options), identities)
        await local.server.start()
        return local

    local = run_async(start())
    try:
        yield local
    finally:
        run_async(local.stop())
