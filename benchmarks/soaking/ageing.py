"""Measure what a server keeps of past calls (churn), and what a call costs as it grows old."""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import os
import queue
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import uvloop
from latency import server_flags
from load.generator import CHANNEL_OPTIONS, METHOD, RECORDINGS, OpenStream, recordings
from load.processes import cores, on_cores
from load.trunk_generator import TrunkGenerator
from rich.progress import track
from soaking.monitor import resources

from streamer.audio.codec import SAMPLE_RATE, Encoding
from streamer.inference.engine import Engine
from streamer.inference.model import CPU_MODEL, OnnxModel
from streamer.process.local_server import LocalServer, local_server
from streamer.rpc import voicecohort_pb2 as pb
from streamer.session.session import CallConfig, CallSession

CONCURRENT = 50
SAMPLES = 10
CALL_SECONDS = 60.0
"""A short call without its final prediction by then is lost."""
SETTLE_SECONDS = 1.0
"""After the last call of a sample: streams end a little after their status is read."""
BYTES_PER_CALL = 100.0
"""Slope of the resident set that fails, if it is above by two standard errors."""


async def short_call(open_stream: OpenStream, number: int, chunk_ms: int, seed: int) -> None:
    """Send a second of audio without pacing.

    Raises:
        AioRpcError: the call failed.
        RuntimeError: it ended without a final prediction.
    """
    config, chunks = recordings(chunk_ms, seed)[number % RECORDINGS]
    stream = open_stream()
    await stream.write(config)
    for sequence in range(1, 1000 // chunk_ms + 1):
        audio = pb.Audio(sequence=sequence, data=chunks[(number + sequence) % len(chunks)])
        await stream.write(pb.StreamClassifyRequest(audio=audio).SerializeToString())
    await stream.done_writing()
    final = False
    while isinstance(response := await stream.read(), bytes):
        final = final or pb.StreamClassifyResponse.FromString(response).prediction.final
    if not final:
        raise RuntimeError("no final prediction")


async def short_calls(target: str, numbers: range, options: argparse.Namespace) -> list[str]:
    """Run short calls, :data:`CONCURRENT` connections at a time; return the errors."""
    errors: list[str] = []
    size = options.calls_per_connection
    pending = iter([numbers[at : at + size] for at in range(0, len(numbers), size)])

    async def connections() -> None:
        for part in pending:
            async with grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS) as channel:
                trunk = TrunkGenerator(channel, options.trunk_ms / 1000)
                stream: OpenStream = trunk if options.trunk_ms else channel.stream_stream(METHOD)
                for number in part:
                    try:
                        async with asyncio.timeout(CALL_SECONDS):
                            await short_call(stream, number, options.chunk_ms, options.seed)
                    except grpc.aio.AioRpcError as error:
                        errors.append(f"{error.code().name}: {error.details()}")
                    except (RuntimeError, TimeoutError, asyncio.InvalidStateError) as error:
                        errors.append(str(error) or type(error).__name__)
                await trunk.close()

    await asyncio.gather(*(connections() for _ in range(CONCURRENT)))
    return errors


def churn(options: argparse.Namespace) -> dict[str, Any]:
    """Run many short calls; fit the growth of the server's memory, descriptors and threads."""
    mine, theirs = cores()
    flags = server_flags(options, 2 * CONCURRENT)
    with on_cores(mine), local_server(*flags) as server, on_cores(theirs):
        return churned(server, options)


def churned(server: LocalServer, options: argparse.Namespace) -> dict[str, Any]:
    """Run the short calls of :func:`churn` against a running server."""
    samples, errors, spent = [], list[str](), 0.0
    for index in track(range(SAMPLES), "short calls", transient=True):
        first, last = (options.calls * (index + more) // SAMPLES for more in (0, 1))
        began = time.monotonic()
        errors += uvloop.run(short_calls(server.target, range(first, last), options))
        spent += time.monotonic() - began
        time.sleep(SETTLE_SECONDS)
        samples.append({"calls": last, **resources(server.process.pid)})
    late = samples[1:]  # pools reach their size before
    calls, rss = ([s[name] for s in late] for name in ("calls", "rss_mb"))
    (slope, _), covariance = np.polyfit(calls, rss, 1, cov=True)
    return {
        "calls": options.calls,
        "lost": len(errors),
        "errors": errors[:5],
        "trunk_ms": options.trunk_ms,
        "rss_bytes_per_call": round(2**20 * float(slope), 1),
        "rss_bytes_per_call_error": round(2**20 * float(covariance[0][0]) ** 0.5, 1),
        "file_descriptors_growth": late[-1]["file_descriptors"] - late[0]["file_descriptors"],
        "threads_growth": late[-1]["threads"] - late[0]["threads"],
        "calls_per_second": round(options.calls / spent, 1),
        "samples": samples,
    }


def churn_failures(result: dict[str, Any]) -> list[str]:
    """Return the failures of :func:`churn`."""
    found = [f"{result['lost']} calls lost: {result['errors']}"] if result["lost"] else []
    slope, error = result["rss_bytes_per_call"], result["rss_bytes_per_call_error"]
    if slope - 2 * error > BYTES_PER_CALL:
        found.append(f"resident memory grows by {slope} ± {error} bytes a call")
    if result["file_descriptors_growth"] > 0:
        found.append(f"file descriptors grow by {result['file_descriptors_growth']}")
    return found


class SessionCall:
    """One call in this process; waits for the engine after every chunk."""

    def __init__(self, engine: Engine, results: queue.Queue[Callable[[], None]]) -> None:
        self._results = results
        self.session = CallSession(CallConfig("soak", Encoding.MULAW, SAMPLE_RATE), engine, self)
        self._sequence = 0

    def second(self, audio: bytes) -> float:
        """Process one second in 100 ms chunks; return the CPU seconds of all threads."""
        began, size = time.process_time(), SAMPLE_RATE // 10
        for start in range(0, len(audio), size):
            self._sequence += 1
            self.session.audio(self._sequence, audio[start : start + size])
            while self.session.backlog.blocks:
                self._results.get()()
        return time.process_time() - began

    def on_prediction(self, update: object) -> None:
        """Ignore predictions."""

    def on_speech(self, channel: int, started: bool, audio_seconds: float) -> None:
        """Ignore speech events."""

    def on_progress(self) -> None:
        """Ignore progress: :meth:`second` reads the backlog."""

    def on_error(self, error: Exception) -> None:
        """Raise the error of a failed call."""
        raise error


def old_call(options: argparse.Namespace) -> dict[str, Any]:
    """Compare the CPU cost of a second of a young and an old call, second by second in turns."""
    student = OnnxModel(Path(options.model) if options.model else CPU_MODEL, provider="cpu")
    results: queue.Queue[Callable[[], None]] = queue.Queue()
    engine = Engine(student, results.put, max_batch_delay_seconds=0.0)  # no other calls to wait for
    engine.prepared.result()
    audio = b"".join(recordings(100, options.seed)[0][1])  # mu-law
    audio = (audio * (60 * SAMPLE_RATE // len(audio) + 1))[: 60 * SAMPLE_RATE]
    seconds = [audio[at : at + SAMPLE_RATE] for at in range(0, len(audio), SAMPLE_RATE)]

    def rss_bytes() -> float:
        # Free pages of the heap would be filled before the process grows: return them first.
        gc.collect()
        if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
            trim(0)
        return 2**20 * resources(os.getpid())["rss_mb"]

    opened: list[SessionCall] = []
    for index in range(options.calls + 20):
        if index == 20:  # what is allocated once is allocated now
            before = rss_bytes()
        opened.append(SessionCall(engine, results))
        for second in seconds[:3]:
            opened[-1].second(second)
    memory = round((rss_bytes() - before) / options.calls)
    for call in opened:
        call.session.close()
    old = SessionCall(engine, results)
    for second in seconds:
        old.second(second)
    resident = rss_bytes()
    for _ in track(range(round(options.minutes) - 2), "ageing a call", transient=True):
        for second in seconds:
            old.second(second)
    growth = round(rss_bytes() - resident)
    spent: dict[str, list[float]] = {"young": [], "old": []}
    for _ in track(range(options.rounds), "comparing", transient=True):
        young = SessionCall(engine, results)
        cost = {"young": 0.0, "old": 0.0}
        for index, second in enumerate(seconds):
            pair = [("young", young), ("old", old)]
            for name, call in pair if index % 2 else reversed(pair):
                cost[name] += call.second(second)
        young.session.close()
        for name, value in cost.items():
            spent[name].append(1000 * value / len(seconds))
    engine.stop()
    ratios = [b / a for a, b in zip(spent["young"], spent["old"], strict=True)]
    median = statistics.median(ratios)
    return {
        "minutes": options.minutes,
        "rounds": options.rounds,
        "ratio": {
            "median": round(median, 4),
            "min": round(min(ratios), 4),
            "max": round(max(ratios), 4),
        },
        "cpu_ms_per_call_s": {n: round(statistics.median(v), 3) for n, v in spent.items()},
        "state_bytes": student.metadata.memory_bytes,
        "memory_bytes_per_call": memory,
        "ageing_growth_bytes": growth,
        "model": student.metadata.model_id,
    }


def old_call_failures(result: dict[str, Any]) -> list[str]:
    """Return the failures of :func:`old_call`."""
    median = result["ratio"]["median"]
    return [f"an old call costs {median} times a young one"] if median > 1.05 else []
