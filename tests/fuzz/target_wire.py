"""A real grpc.aio server, sent arbitrary bytes, beside a witness on a line of its own."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable

import grpc
import target_stream_raw
from gateway import Ending
from harness import CallHarness, witness_requests
from inputs import FuzzInput, pack

from streamer.observability.metrics import Metrics
from streamer.rpc import voicecohort_pb2 as pb
from streamer.rpc import voicecohort_pb2_grpc as pb_grpc

METHOD = "/voicecohort.v1.ClassifierService/StreamClassify"
HIDDEN = "Internal error from Core"
"""Error of grpc.aio's client where a write met the end of the stream (grpc issue 36066)."""
LONGEST = 32_768
"""Bytes of a message that the server reads; a longer one is refused by gRPC."""
MOST = 64


class Endings(Metrics):
    """Records the statuses of ended streams."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def record_call_end(self, status: str, *more: str) -> None:
        self.seen.append(status)
        super().record_call_end(status, *more)

    def record_refusal(self, status: str, *more: str) -> None:
        self.seen.append(status)
        super().record_refusal(status, *more)


class RpcStream(CallHarness):
    """The call harness behind a server on a loopback port."""

    def _metrics(self) -> Endings:
        return Endings()

    async def _build(self) -> None:
        await super()._build()
        self._server = grpc.aio.server(options=(("grpc.max_receive_message_length", LONGEST),))
        pb_grpc.add_ClassifierServiceServicer_to_server(self.service, self._server)
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        own = (("grpc.use_local_subchannel_pool", 1),)
        self._channels = [grpc.aio.insecure_channel(f"127.0.0.1:{port}", own) for _ in range(2)]
        self._opens = [channel.stream_stream(METHOD) for channel in self._channels]
        await asyncio.gather(*(channel.channel_ready() for channel in self._channels))

    async def _close(self) -> None:
        for channel in self._channels:
            await channel.close()
        await self._server.stop(None)
        await super()._close()

    async def call(self, script, before=None, *, line: int = 0) -> Ending:
        """One stream to its end; messages are requests or bytes."""
        ending = Ending()
        stream = self._opens[line]()

        async def send() -> None:
            for number, step in enumerate(script):
                if before is not None:
                    await before(number)
                message = step if isinstance(step, bytes) else step.SerializeToString()
                await stream.write(message)
            await stream.done_writing()

        sending = asyncio.create_task(send())
        try:
            while isinstance(data := await stream.read(), bytes):
                ending.responses.append(pb.StreamClassifyResponse.FromString(data))
        except grpc.aio.AioRpcError as error:
            ending.status, ending.details = error.code().name, error.details() or ""
        finally:
            sending.cancel()
            # The reading side raises the error of a stream.
            await asyncio.gather(sending, return_exceptions=True)
        code = await stream.code()
        assert ending.status in {"", code.name}
        ending.status, ending.details = code.name, await stream.details() or ""
        if ending.details == HIDDEN:
            await self._until(lambda: self.metrics.seen)
            ending.status = self.metrics.seen[0]
            if ending.status in {"OK", "CANCELLED"}:
                ending.details = ""
        return ending

    async def _until(self, done: Callable[[], object]) -> None:
        while not done():
            await asyncio.sleep(0.001)

    def witness(self, before) -> Awaitable[Ending]:
        """The good call, on its own connection."""
        return self.call(witness_requests(), before, line=1)

    async def nothing_left(self, before: set[asyncio.Task]) -> None:  # noqa: ARG002 - gRPC has its own
        """No stream is open; the server's side of one ends a little after the client's."""
        await self._until(lambda: not self.service.supervisor.open_streams)
        self.metrics.seen.clear()


wire: Callable[[], RpcStream] = functools.cache(RpcStream)
"""The one of this process."""


def seeds() -> list[bytes]:
    """As for the service without sockets, and bytes that are no messages at all."""
    bad = [b"", b"\0", b"\xff" * 20, b"\x12\x80\x80\x80\x80\x08", bytes(LONGEST + 1)]
    return [*target_stream_raw.seeds(), *(pack([data]) for data in bad), pack(bad)]


def run(data: bytes) -> None:
    """One input: messages, each behind its length."""
    fuzz_input = FuzzInput(data)
    script: list[bytes] = []
    while fuzz_input.left and len(script) < MOST:
        script.append(fuzz_input.piece())
    wire().try_call(script)
