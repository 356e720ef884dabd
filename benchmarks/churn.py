"""Many short calls, one after another: does the server keep anything of them?

    python benchmarks/churn.py --calls 10000 --json churn.json

Each call sends one second of audio at once and waits for its final prediction, 50 at a time; the
gateway's connection is a new one after every --calls-per-connection calls. After each tenth of
the calls, with none open, the server's memory, file descriptors and threads are read. The first
fifth is not judged: allocators and thread pools reach their size in it.

JSON keys: ``calls``, ``lost``, ``errors`` (first few), ``samples`` (``calls`` so far,
``rss_bytes``, ``file_descriptors``, ``threads``), ``rss_bytes_per_call`` (slope of a straight line
through the judged samples) and its standard error ``rss_bytes_per_call_error`` (buffers that are
freed and taken again move the resident set by megabytes: more calls see smaller leaks),
``file_descriptors_growth``, ``threads_growth`` (last judged sample less the first),
``calls_per_second``, ``device``.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import uvloop
from latency import device_of, load_arguments, server_flags
from load.calls import CHANNEL_OPTIONS, METHOD, RECORDINGS, Open, recordings
from load.run import cores, on_cores, write_json
from load.trunk import Trunk
from rich.progress import Progress

from streamer.process.local_server import local_server
from streamer.rpc import voicecohort_pb2 as pb

AT_A_TIME = 50
SAMPLES = 10
UNJUDGED = 2
"""Samples at the begin, of :data:`SAMPLES`."""
CALL_SECONDS = 60.0
"""A call that has no final prediction by then is lost."""
SETTLE_SECONDS = 1.0
"""After the last call of a sample: streams end a little after their status is read."""


def footprint(pid: int) -> dict[str, int]:
    """What a process holds."""
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    return {
        "rss_bytes": int(status["VmRSS"].split()[0]) * 1024,
        "file_descriptors": sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()),
        "threads": int(status["Threads"]),
    }


async def short_call(open_stream: Open, number: int, chunk_ms: int, seed: int) -> None:
    """A second of audio at once.

    Raises:
        AioRpcError: the call failed.
        RuntimeError: it ended without a final prediction.
    """
    config, chunks = recordings(chunk_ms, seed)[number % RECORDINGS]
    stream = open_stream()
    await stream.write(config)
    for sequence in range(1, 1000 // chunk_ms + 1):
        data = chunks[(number + sequence) % len(chunks)]
        request = pb.StreamClassifyRequest(audio=pb.Audio(sequence=sequence, data=data))
        await stream.write(request.SerializeToString())
    await stream.done_writing()
    final = False
    while isinstance(answer := await stream.read(), bytes):
        final = final or pb.StreamClassifyResponse.FromString(answer).prediction.final
    if not final:
        raise RuntimeError("no final prediction")


class Churn:
    """Opens and closes calls.

    Args:
        target: HOST:PORT.
        options: of the command line.
    """

    def __init__(self, target: str, options: argparse.Namespace) -> None:
        self._target = target
        self._options = options
        self.errors: list[str] = []

    async def connection(self, numbers: range) -> None:
        """Some calls, one after another, over a connection of their own."""
        async with grpc.aio.insecure_channel(self._target, options=CHANNEL_OPTIONS) as channel:
            trunk = Trunk(channel, self._options.trunk_ms / 1000)
            open_stream: Open = trunk if self._options.trunk_ms else channel.stream_stream(METHOD)
            for number in numbers:
                try:
                    async with asyncio.timeout(CALL_SECONDS):
                        await short_call(
                            open_stream, number, self._options.chunk_ms, self._options.seed
                        )
                except grpc.aio.AioRpcError as error:
                    self.errors.append(f"{error.code().name}: {error.details()}")
                except (RuntimeError, TimeoutError, asyncio.InvalidStateError) as error:
                    self.errors.append(str(error) or type(error).__name__)
            await trunk.close()

    async def run(self, first: int, last: int) -> None:
        """Calls ``first`` to ``last - 1``, :data:`AT_A_TIME` at a time."""
        size = self._options.calls_per_connection
        waiting = iter([range(at, min(at + size, last)) for at in range(first, last, size)])

        async def line() -> None:
            for numbers in waiting:
                await self.connection(numbers)

        await asyncio.gather(*(line() for _ in range(AT_A_TIME)))


def measure(target: str, pid: int, options: argparse.Namespace) -> dict[str, Any]:
    """The JSON that the module documents."""
    churn = Churn(target, options)
    samples, spent = [], 0.0
    with Progress(transient=True) as progress:
        bar = progress.add_task("short calls", total=options.calls)
        for index in range(SAMPLES):
            first, last = (options.calls * (index + more) // SAMPLES for more in (0, 1))
            began = time.monotonic()
            uvloop.run(churn.run(first, last))
            spent += time.monotonic() - began
            time.sleep(SETTLE_SECONDS)
            samples.append({"calls": last, **footprint(pid)})
            progress.update(bar, completed=last)
    judged = samples[UNJUDGED - 1 :]
    (slope, _), covariance = np.polyfit(
        [s["calls"] for s in judged], [s["rss_bytes"] for s in judged], 1, cov=True
    )
    return {
        "calls": options.calls,
        "lost": len(churn.errors),
        "errors": churn.errors[:5],
        "samples": samples,
        "rss_bytes_per_call": round(float(slope), 1),
        "rss_bytes_per_call_error": round(float(covariance[0][0]) ** 0.5, 1),
        **{
            f"{name}_growth": judged[-1][name] - judged[0][name]
            for name in ("file_descriptors", "threads")
        },
        "calls_per_second": round(options.calls / spent, 1),
    }


def main() -> int:
    """Command line; 1 if a call was lost, or memory or descriptors grow with every call."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=10_000, help="in all (%(default)s)")
    parser.add_argument(
        "--bound",
        type=float,
        default=100.0,
        help="bytes per call that fail, if the slope is above by two errors (%(default)s)",
    )
    parser.add_argument(
        "--trunk-ms",
        type=float,
        default=0.0,
        help="the calls of a connection are on a trunk, sent on so often (0: a stream each)",
    )
    load_arguments(parser)
    parser.set_defaults(calls_per_connection=20)
    options = parser.parse_args()
    mine, theirs = cores()
    with (
        on_cores(mine),
        local_server(*server_flags(options, 2 * AT_A_TIME)) as server,
        on_cores(theirs),
    ):
        result = measure(server.target, server.process.pid, options)
    result |= {"device": device_of(server)}
    write_json(result, options.json)
    surely = result["rss_bytes_per_call"] - 2 * result["rss_bytes_per_call_error"]
    grew = surely > options.bound or result["file_descriptors_growth"] > 0
    return 1 if result["lost"] or grew else 0


if __name__ == "__main__":
    sys.exit(main())
