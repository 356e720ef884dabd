"""Run calls whose load changes in phases: faulty callers beside normal calls, or an overload."""

from __future__ import annotations

import argparse
import base64
import contextlib
import multiprocessing
import os
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
from latency import device_of, server_flags, serving
from load.generator import ENCODINGS, SPREAD_SECONDS, Observations, Plan, recordings
from load.processes import Generators, cores, on_cores, quantiles_ms
from rich.progress import track
from soaking.ageing import short_calls
from soaking.callers import CallersPlan, Tally, run_callers
from soaking.checks import Phase, Reference, result_of
from soaking.connection import MOVED_CHUNKS, WIDE_RATE, chunks, difference, stereo_chunks
from soaking.monitor import Monitor, settled, threads_by_name

from streamer.audio.codec import SAMPLE_RATE, Encoding
from streamer.process.local_server import local_server
from streamer.rpc import voicecohort_pb2 as pb

SERVER_FLAGS = ("--idle-timeout", "20")
"""Half-open, idle and unread calls must end many times in the soak."""
KEYS = '[[key]]\nid = "soak"\nsecret = "{}"\n'
LEAD_SECONDS = 1.0
"""Until all processes have their plans."""
ENDING_SECONDS = 2.0
"""For the final predictions of a round of normal calls, before the next round starts."""
SETTLE_SECONDS = 30.0
"""Within which the server must free what calls used, once all calls are over."""
ROUNDS = 2
"""Of normal calls at the same time, half a call apart, so that there is never none."""
ALONE_SECONDS = 6.0
"""Of the first half of the calls, before the overload."""


def normal(target: str, options: argparse.Namespace) -> Plan:
    """Plan one round of normal calls."""
    return Plan(
        target,
        calls=max(1, options.calls // ROUNDS),
        seconds=options.call_seconds,
        window=(0.0, SPREAD_SECONDS + options.call_seconds + ENDING_SECONDS),
        chunk_ms=options.chunk_ms,
        calls_per_connection=options.calls_per_connection,
        seed=options.seed,
    )


def starts_of(options: argparse.Namespace, period: float, end: float) -> list[list[float]]:
    """Return when the rounds of normal calls start, for each of :data:`ROUNDS` processes."""
    last = end - SPREAD_SECONDS - options.call_seconds
    every = [[(n + first / ROUNDS) * period for n in range(int(end / period) + 1)]
             for first in range(ROUNDS)]  # fmt: skip
    return [[start for start in starts if start <= last] for starts in every]


def wrong_answers(
    observed: Observations, options: argparse.Namespace, reference: Reference
) -> list[str]:
    """Return how final predictions differ from those of the same audio without a server."""
    wrong, known = [], {}
    for recording, count, answer in observed.answers:
        if (recording, count) not in known:
            repeated = recordings(options.chunk_ms, options.seed)[recording][1]
            sent = [repeated[number % len(repeated)] for number in range(count)]
            encoding = ENCODINGS[recording % len(ENCODINGS)][1]
            known[recording, count] = reference.finals(sent, encoding, SAMPLE_RATE)[0]
        if what := difference(pb.Prediction.FromString(answer), known[recording, count]):
            wrong.append(f"recording {recording}: {what}")
    return wrong


def run_calls(
    target: str,
    options: argparse.Namespace,
    plan: CallersPlan,
    phases: list[Phase],
    allowed: set[int],
) -> tuple[Observations, int, Tally, float]:
    """Run all calls: return observations and number of normal ones, ends of others, the begin."""
    spawn = multiprocessing.get_context("spawn")  # gRPC does not survive a fork
    with (
        Generators(1, allowed) as first,
        Generators(1, allowed) as second,
        ProcessPoolExecutor(1, spawn, os.sched_setaffinity, (0, allowed)) as others,
    ):
        both = (first, second)
        prepared = others.submit(stereo_chunks)
        with ThreadPoolExecutor(len(both)) as threads:  # processes take seconds to start
            list(threads.map(lambda g: g.prepare(options.chunk_ms, options.seed), both))
        prepared.result()
        one = normal(target, options)
        if options.warm_up:
            warm = replace(one, calls=options.calls, seconds=options.warm_up)
            for future in first.start(warm, time.monotonic() + LEAD_SECONDS):
                future.result()
        begin = time.monotonic() + LEAD_SECONDS
        plan = replace(plan, begin=begin + plan.begin, end=begin + plan.end)
        tally = others.submit(run_callers, plan)
        pending: list[tuple[Future[Observations], float]] = []
        calls, end = 0, phases[-1].end
        for generators, starts in zip(both, starts_of(options, one.window[1], end), strict=True):
            for start in starts:
                calls += one.calls
                pending += [(f, start) for f in generators.start(one, begin + start)]
        for tick in track(range(round(end)), "soak", transient=True):
            time.sleep(max(0.0, begin + tick - time.monotonic()))
        observed = Observations()
        for result, start in pending:
            observed.add(result.result(), start)
        return observed, calls, tally.result(), begin


def mixed(options: argparse.Namespace, kinds: tuple[str, ...]) -> dict[str, Any]:
    """Run normal calls beside callers of these kinds; return the JSON that soak.py documents."""
    end = 60.0 * options.minutes
    edges = [0.0, options.quiet, end - options.quiet, end]
    names = ("quiet", "mixed", "quiet_again")
    phases = [Phase(name, edges[n], edges[n + 1]) for n, name in enumerate(names)]
    mine, theirs = cores()
    with contextlib.ExitStack() as stack:
        model = Path(options.model) if options.model else None
        reference = stack.enter_context(Reference(model))
        finals = {
            "stereo": reference.finals(stereo_chunks(), Encoding.LINEAR16, WIDE_RATE, 2),
            "moved": reference.finals(chunks(MOVED_CHUNKS), Encoding.MULAW, SAMPLE_RATE),
        }
        answers = {
            name: tuple(final.SerializeToString() for _, final in sorted(channels.items()))
            for name, channels in finals.items()
        }
        keys = stack.enter_context(tempfile.NamedTemporaryFile("w", suffix=".toml"))
        keys.write(KEYS.format(base64.b64encode(os.urandom(32)).decode()))
        keys.flush()
        flags = [*server_flags(options, 400), *SERVER_FLAGS, "--checkpoint-keys", keys.name]
        with on_cores(mine):
            server = stack.enter_context(local_server(*flags, "--metrics-listen", "127.0.0.1:0"))
        with on_cores(theirs):  # pools and lazy imports exist before the first sample
            uvloop.run(short_calls(server.target, range(3), options))
        pid = server.process.pid
        before, threads = settled(pid), {"before": threads_by_name(pid)}
        plan = CallersPlan(
            server.target,
            *phases[1][1:],
            kinds,
            options.rate,
            answers,
            options.seed,
        )
        with Monitor(pid, str(serving(server)["metrics"])) as monitor:
            observed, calls, tally, begin = run_calls(server.target, options, plan, phases, theirs)
            after = settled(pid, before, SETTLE_SECONDS)
            threads["after"] = threads_by_name(pid)
            counts = monitor.counts()
        wrong = wrong_answers(observed, options, reference)
    return result_of(
        options, phases, observed, calls, wrong, tally, monitor.samples_since(begin)
    ) | {
        "idle": {"before": before, "after": after, "threads": threads},
        **counts,
        "device": device_of(server),
    }


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
    mine, theirs = cores()
    with on_cores(mine), local_server(*server_flags(options, most)) as server, on_cores(theirs):
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
