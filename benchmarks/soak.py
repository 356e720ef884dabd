"""Calls of every kind for 45 minutes: does the server keep anything, do good calls notice?

    python benchmarks/soak.py --json soak.json --picture soak.png

Three phases: quiet, mixed, quiet again. Normal calls run throughout: paced in real time, open loop
(see latency.py), and each final prediction is compared with what the same audio gives by itself. In
the mixed phase come those of ``soaking.callers.KINDS`` besides: callers that vanish, stay
half-open, never read, flood, send nonsense or nothing. Their rates are bounded; --rate multiplies
them. The server is a process of its own, on a core of its own where there are two, and is looked at
every second.

JSON keys: ``minutes``, ``quiet_s``, ``phases``; ``normal`` (``calls``, ``right``, ``wrong``,
``lost``, ``refused``, ``errors``); ``callers`` (by kind and status), ``unexpected`` (ends that must
not be), ``refused_good`` (of the other callers that do nothing wrong); ``latency`` (by phase,
``p99_mixed_over_quiet``, ``late_sends_ms_p99`` of the generator); ``growth`` (``rss_mb`` and
``file_descriptors`` per hour of the mixed phase less its first fifth, four minutes at least, with
standard error, bound and ``flat``); ``idle`` (what the server holds without a call, ``before`` and
``after``, and its ``threads`` by name then and then);
``calls_by_status`` and ``refusals_by_status`` (the server's own count); ``server_cpu_s``;
``samples`` (each second: ``at``, ``rss_mb``, ``file_descriptors``, ``threads``, ``calls_open``,
``cpu``), ``windows`` (p50 and p99 of ten seconds each), ``failures`` (why it exits with 1),
``device``.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import uvloop
from churn import short_call
from latency import device_of, load_arguments, server_flags, serving
from load.calls import (
    CHANNEL_OPTIONS,
    ENCODINGS,
    METHOD,
    SPREAD_SECONDS,
    Open,
    Plan,
    Seen,
    recordings,
)
from load.run import Generators, cores, on_cores, write_json
from overload import shifted
from rich.progress import track
from soaking.callers import CallersPlan, Tally, misbehave
from soaking.judge import Phase
from soaking.pictures import soak_picture
from soaking.reference import Reference, difference
from soaking.result import failures, result_of
from soaking.stream import MOVED_CHUNKS, WIDE_RATE, chunks, stereo_chunks
from soaking.watch import Watch, settled, threads_by_name

from streamer.audio.codec import SAMPLE_RATE, Encoding
from streamer.process.local_server import local_server
from streamer.rpc import voicecohort_pb2 as pb

SERVER_FLAGS = ("--idle-timeout", "20")
"""Half-open, silent and unread calls must end many times in the soak."""
KEYS = '[[key]]\nid = "soak"\nsecret = "{}"\n'
LEAD_SECONDS = 1.0
"""Until all processes have their plans."""
ENDING_SECONDS = 2.0
"""For the answers of a round of normal calls, before the next one starts."""
SETTLE_SECONDS = 30.0
"""Within which the server must hold what it held before, once all calls are over."""
ROUNDS = 2
"""Of normal calls side by side, half a call apart: there is never a moment without any."""


def phases_of(options: argparse.Namespace) -> list[Phase]:
    """Quiet, mixed, quiet again."""
    end = 60.0 * options.minutes
    edges = [0.0, options.quiet, end - options.quiet, end]
    names = ("quiet", "mixed", "quiet_again")
    return [Phase(name, edges[n], edges[n + 1]) for n, name in enumerate(names)]


def normal(target: str, options: argparse.Namespace) -> Plan:
    """One round of normal calls."""
    return Plan(
        target,
        calls=max(1, options.calls // ROUNDS),
        seconds=options.call_seconds,
        window=(0.0, SPREAD_SECONDS + options.call_seconds + ENDING_SECONDS),
        chunk_ms=options.chunk_ms,
        calls_per_connection=options.calls_per_connection,
        seed=options.seed,
    )


def rounds(target: str, options: argparse.Namespace, end: float) -> list[list[tuple[Plan, float]]]:
    """Plans of normal calls, with their begin, for each of :data:`ROUNDS` processes."""
    plan = normal(target, options)
    period = plan.window[1]
    starts = [
        [first / ROUNDS * period + number * period for number in range(int(end / period) + 1)]
        for first in range(ROUNDS)
    ]
    last = end - SPREAD_SECONDS - options.call_seconds
    return [[(plan, start) for start in line if start <= last] for line in starts]


def compare(seen: Seen, options: argparse.Namespace, reference: Reference) -> list[str]:
    """Final predictions that are not what the same audio gives by itself."""
    wrong, known = [], {}
    for recording, count, answer in seen.answers:
        if (recording, count) not in known:
            spoken = recordings(options.chunk_ms, options.seed)[recording][1]
            sent = [spoken[number % len(spoken)] for number in range(count)]
            encoding = ENCODINGS[recording % len(ENCODINGS)][1]
            known[recording, count] = reference.finals(sent, encoding, SAMPLE_RATE)[0]
        if what := difference(pb.Prediction.FromString(answer), known[recording, count]):
            wrong.append(f"recording {recording}: {what}")
    return wrong


def offer(
    target: str,
    options: argparse.Namespace,
    answers: Mapping[str, tuple[bytes, ...]],
    allowed: set[int],
) -> tuple[Seen, int, Tally, float]:
    """Run all calls: what normal ones saw, their number, how others ended, and the begin."""
    phases = phases_of(options)
    spawn = multiprocessing.get_context("spawn")  # gRPC does not survive a fork
    with (
        Generators(1, allowed) as first,
        Generators(1, allowed) as second,
        ProcessPoolExecutor(1, spawn, os.sched_setaffinity, (0, allowed)) as others,
    ):
        lines = [first, second]
        prepared = others.submit(stereo_chunks)
        with ThreadPoolExecutor(len(lines)) as threads:  # processes take seconds to start
            ready = [threads.submit(g.prepare, options.chunk_ms, options.seed) for g in lines]
            for done in ready:
                done.result()
        prepared.result()
        if options.warm_up:
            warm = replace(normal(target, options), calls=options.calls, seconds=options.warm_up)
            for future in first.start(warm, time.monotonic() + LEAD_SECONDS):
                future.result()
        begin = time.monotonic() + LEAD_SECONDS
        mixed = phases[1]
        plan = CallersPlan(
            target, begin + mixed.begin, begin + mixed.end, options.rate, answers, options.seed
        )
        tally = others.submit(misbehave, plan)
        pending: list[tuple[Future[Seen], float]] = []
        calls = 0
        for generators, line in zip(lines, rounds(target, options, phases[-1].end), strict=True):
            for round_plan, start in line:
                calls += round_plan.calls
                pending += [(f, start) for f in generators.start(round_plan, begin + start)]
        for tick in track(range(round(phases[-1].end)), "soak", transient=True):
            time.sleep(max(0.0, begin + tick - time.monotonic()))
        seen = Seen()
        for result, start in pending:
            seen.add(shifted(result.result(), start))
        return seen, calls, tally.result(), begin


async def first_calls(target: str, options: argparse.Namespace) -> None:
    """A few calls, so that pools and lazy imports are there before the server is looked at."""
    async with grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS) as channel:
        open_stream: Open = channel.stream_stream(METHOD)
        for number in range(3):
            await short_call(open_stream, number, options.chunk_ms, options.seed)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The JSON that the module documents."""
    mine, theirs = cores()
    model = Path(options.model) if options.model else None
    with contextlib.ExitStack() as stack:
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
        with on_cores(theirs):
            uvloop.run(first_calls(server.target, options))
        pid = server.process.pid
        before, names = settled(pid), {"before": threads_by_name(pid)}
        with Watch(pid, str(serving(server)["metrics"])) as watch:
            seen, calls, tally, begin = offer(server.target, options, answers, theirs)
            after = settled(pid, before, SETTLE_SECONDS)
            names["after"] = threads_by_name(pid)
            counts = watch.counts()
        wrong = compare(seen, options, reference)
    return result_of(
        options, phases_of(options), seen, calls, wrong, tally, watch.samples_since(begin)
    ) | {
        "idle": {"before": before, "after": after, "threads": names},
        **counts,
        "device": device_of(server),
    }


def main() -> int:
    """Command line; 1 if something is there that must not be."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=45.0,
        help="in all (%(default)s; in half an hour memory that finds its size looks as if it grew)",
    )
    parser.add_argument(
        "--quiet", type=float, default=120.0, help="seconds before and after (%(default)s)"
    )
    parser.add_argument("--calls", type=int, default=40, help="normal, at a time (%(default)s)")
    parser.add_argument(
        "--call-seconds", type=float, default=20.0, help="of a normal call (%(default)s)"
    )
    parser.add_argument(
        "--warm-up", type=float, default=5.0, help="seconds before, not counted (%(default)s)"
    )
    parser.add_argument("--rate", type=float, default=1.0, help="of other callers (%(default)s)")
    load_arguments(parser)
    parser.set_defaults(provider="cpu", calls_per_connection=20)
    options = parser.parse_args()
    if 60 * options.minutes < 3 * options.quiet:
        parser.error(f"--minutes {options.minutes} leave no mixed phase beside --quiet")
    result = measure(options)
    result["failures"] = failures(result)
    write_json(result, options.json)
    if options.picture:
        soak_picture(result, options.picture)
    for line in result["failures"]:
        print(line, file=sys.stderr)
    return 1 if result["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
