"""Measurements of soak.py without a mix of callers: churn and overload."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import grpc
import numpy as np
import uvloop
from latency import server_flags
from load.generator import (
    CHANNEL_OPTIONS,
    METHOD,
    RECORDINGS,
    SPREAD_SECONDS,
    Observations,
    OpenStream,
    Plan,
    recordings,
)
from load.processes import LEAD_SECONDS, Generators, cores, on_cores, quantiles_ms
from load.trunk_generator import TrunkGenerator
from rich.progress import track
from soaking.monitor import resources

from streamer.local import LocalServer, local_server
from streamer.rpc import voicecohort_pb2 as pb

CONCURRENT = 50
SAMPLES = 10
CALL_SECONDS = 60.0
"""A short call without its final prediction by then is lost."""
SETTLE_SECONDS = 1.0
"""After the last call of a sample: streams end a little after their status is read."""
BYTES_PER_CALL = 100.0
"""Slope of the resident set that fails, if it is above by two standard errors."""
ALONE_SECONDS = 6.0
"""Of the first half of the calls, before the overload."""


def start_server(options: argparse.Namespace, calls: int) -> AbstractContextManager[LocalServer]:
    """Return the context manager of a server on its cores."""
    with on_cores(cores()[0]):
        return local_server(*server_flags(options, calls))


# --- churn ---


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
    with start_server(options, 2 * CONCURRENT) as server, on_cores(cores()[1]):
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


# --- overload ---


def per_second(observed: Observations, seconds: int) -> list[dict[str, Any]]:
    """Return p99 of chunks due in each second, and its predictions, refused and lost calls."""
    due, latency = np.array(observed.due), np.array(observed.latency)

    def count(at: Sequence[float], second: int) -> int:
        return sum(second <= value < second + 1 for value in at)

    found = []
    for second in range(seconds):
        within = latency[(due >= second) & (due < second + 1)].tolist()
        entry: dict[str, Any] = {"second": second, "p99_ms": quantiles_ms(within)["p99_ms"]}
        entry["predictions"] = count(observed.arrivals, second)
        entry |= {"refused": count(observed.refused_at, second)}
        found.append(entry | {"lost": count(observed.lost_at, second)})
    return found


def recovered(seconds: Sequence[dict[str, Any]], drop: float, bound_ms: float) -> float | None:
    """Return seconds after ``drop`` from which p99 stays under the bound; None if it never does."""
    since: float | None = None
    for entry in seconds:
        if entry["second"] + 1 <= drop:
            continue
        if entry["p99_ms"] is None or entry["p99_ms"] > bound_ms:
            since = None
        elif since is None:
            since = max(0.0, entry["second"] - drop)
    return since


def overload(options: argparse.Namespace) -> dict[str, Any]:
    """Offer 150 % of ``options.capacity`` calls to one core, then half of it again."""
    most = options.max_calls or round(1.5 * options.capacity) + 10
    with start_server(options, most) as server:
        return overloaded(server.target, options)


def overloaded(target: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run the calls of :func:`overload` against a running server."""
    staying, more = max(1, round(0.5 * options.capacity)), max(1, options.capacity)
    drop = ALONE_SECONDS + SPREAD_SECONDS + options.seconds
    end = drop + options.after
    common: dict[str, Any] = {
        "target": target,
        "chunk_ms": options.chunk_ms,
        "calls_per_connection": options.calls_per_connection,
        "seed": options.seed,
    }
    plans = [
        (Plan(calls=staying, seconds=end, window=(SPREAD_SECONDS, end), **common), 0.0),
        (Plan(calls=more, seconds=options.seconds, window=(0.0, end), **common), ALONE_SECONDS),
    ]
    observed = Observations()
    allowed = cores()[1]
    with (
        Generators(options.generators, allowed) as one,
        Generators(options.generators, allowed) as two,
    ):
        both = (one, two)
        for generators in both:
            generators.prepare(options.chunk_ms, options.seed)
        begin = time.monotonic() + LEAD_SECONDS
        started = [
            (generators.start(plan, begin + shift), shift)
            for generators, (plan, shift) in zip(both, plans, strict=True)
        ]
        for tick in track(range(round(end)), f"{staying} + {more} calls", transient=True):
            time.sleep(max(0.0, begin + tick - time.monotonic()))
        for results, shift in started:
            for result in results:
                observed.add(result.result(), shift)
    seconds = per_second(observed, round(end))
    phases = {
        "before": (SPREAD_SECONDS, ALONE_SECONDS),
        "overloaded": (ALONE_SECONDS + SPREAD_SECONDS, drop - SPREAD_SECONDS),
        "after": (drop, end),
    }
    pairs = list(zip(observed.due, observed.latency, strict=True))
    p99 = {
        f"p99_ms_{name}": quantiles_ms([t for at, t in pairs if low <= at < high])["p99_ms"]
        for name, (low, high) in phases.items()
    }
    return {
        "capacity": options.capacity,
        "offered": staying + more,
        "refused": observed.refused,
        "lost": staying + more - observed.finals - observed.refused,
        "errors": observed.errors[:5],
        "bound_ms": options.bound_ms,
        **p99,
        "rise_second": ALONE_SECONDS,
        "drop_second": drop,
        "recovered_seconds": recovered(seconds, drop, options.bound_ms),
        "late_sends_ms_p99": quantiles_ms(observed.lateness)["p99_ms"],
        "per_second": seconds,
    }


def overload_failures(result: dict[str, Any]) -> list[str]:
    """Return the failures of :func:`overload`."""
    found = [f"{result['lost']} calls lost: {result['errors']}"] if result["lost"] else []
    if result["recovered_seconds"] is None:
        found.append(f"p99 did not return under {result['bound_ms']:g} ms")
    return found
