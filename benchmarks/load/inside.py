"""One checkout's part of side_by_side.py: its server in this process, a gateway from memory.

``python benchmarks/load/inside.py CALLS [MODEL]`` says "ready", then answers every line on standard
input with the CPU seconds that a second of audio of all calls took: the event loop's thread, all.
Only what the server has had since there are trunks is used, so that older checkouts work too.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from load import polling  # noqa: F401 - how gRPC polls is settled when it is loaded

# isort: split
import grpc
import structlog
import uvloop

from load.calls import recordings
from streamer.inference.engine import Engine
from streamer.inference.model import Student
from streamer.inference.registry import Models, ServedModel
from streamer.observability.metrics import Metrics
from streamer.rpc import envelope_pb2 as envelope
from streamer.rpc import voicecohort_pb2 as pb
from streamer.service import ClassifierService
from streamer.settings import ServerSettings
from streamer.transport.trunk import TrunkService

CHUNK_MS = 100
TICKS = 10
"""Messages of a trunk in that time; each has a part of the calls."""
SECOND = TICKS * 1000 // CHUNK_MS
"""Messages of a trunk in a second."""
HURRY = 10
"""Messages after which the engine is waited for: nothing is paced here."""


def messages(calls: int) -> Iterator[bytes]:
    """What a gateway sends, for ever: first the configs, then chunks."""
    known = recordings(CHUNK_MS, seed=1)
    parts = [range(tick, calls, TICKS) for tick in range(TICKS)]
    lines = {call: line for line, call in enumerate(call for part in parts for call in part)}
    turn = 0
    while True:
        for part in parts:
            message = envelope.StreamTrunkRequest()
            for call in part:
                config, chunks = known[call % len(known)]
                audio = pb.Audio(sequence=turn, data=chunks[(turn + 7 * call) % len(chunks)])
                coded = pb.StreamClassifyRequest(audio=audio).SerializeToString()
                message.lines.add(line=lines[call], request=coded if turn else config)
            yield message.SerializeToString()
        turn += 1


class Gateway:
    """The context of a trunk whose messages come from memory, a second at a time."""

    def __init__(self, calls: int, engine: Engine) -> None:
        self._script = messages(calls)
        self._engine = engine
        self._left = list(islice(self._script, SECOND))[::-1]
        self._read = 0
        self._began: tuple[float, float] | None = None

    async def read(self) -> object:
        """Next message; None of them costs the server anything before it is read."""
        if not self._left:
            await self._settled()
            if self._began is None:
                print("ready", flush=True)
            else:
                spent = time.thread_time() - self._began[0], time.process_time() - self._began[1]
                print(*spent, flush=True)
            if not sys.stdin.readline():
                return grpc.aio.EOF
            self._left = list(islice(self._script, SECOND))[::-1]
            self._began = time.thread_time(), time.process_time()
        self._read += 1
        if self._read % HURRY:
            await asyncio.sleep(0)
        else:
            await self._settled()
        return envelope.StreamTrunkRequest.FromString(self._left.pop())

    async def _settled(self) -> None:
        while self._engine.waited:  # noqa: ASYNC110 - older engines know no event either
            await asyncio.sleep(0.001)

    async def write(self, message: envelope.StreamTrunkResponse) -> None:
        """Nobody reads it, but it is coded as gRPC would."""
        message.SerializeToString()

    def peer(self) -> str:
        """Address of the gateway."""
        return "ipv4:192.0.2.1:1"

    def auth_context(self) -> dict[str, list[bytes]]:
        """No certificate."""
        return {}

    def invocation_metadata(self) -> tuple[()]:
        """No headers."""
        return ()


async def serve(calls: int, model: Path | None) -> None:
    """Until standard input ends."""
    student = Student(model, provider="cpu")
    engine = Engine(student, asyncio.get_running_loop().call_soon_threadsafe)
    engine.prepared.result()  # its first steps belong to no call
    settings = ServerSettings(max_calls=calls + 10)
    service = ClassifierService(
        Models(ServedModel.of(engine)), settings, time.monotonic, metrics=Metrics()
    )
    watching = asyncio.create_task(service.watch())
    gateway: Any = Gateway(calls, engine)
    await TrunkService(service, settings.max_calls, 60.0).StreamTrunk(gateway, gateway)
    watching.cancel()
    engine.stop()


if __name__ == "__main__":
    quiet = structlog.make_filtering_bound_logger(40)
    structlog.configure(wrapper_class=quiet)
    uvloop.run(serve(int(sys.argv[1]), Path(sys.argv[2]) if sys.argv[2:] else None))
