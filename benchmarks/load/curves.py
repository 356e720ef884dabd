"""The server's cost over the number of calls, the length of a chunk and the number of workers."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from rich.console import Console

from load.run import Generators, cores
from load.split import Bench

CALLS = (25, 50, 100, 200, 400, 800, 1600, 3200)
CHUNKS_MS = (20, 40, 60, 100, 200)
WORKERS = (1, 2, 4, 8)
ROUNDS = 3
MODERATE = 0.25
"""Share of the capacity at which chunk lengths are compared: chunks of 20 ms cost several times
what those of 100 ms do, and must still be served in time."""


def has_workers() -> bool:
    """Whether the server can run several processes."""
    command = [sys.executable, "-m", "streamer.serve", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    return "--workers" in done.stdout


@dataclass(frozen=True)
class Point:
    """One set-up that is measured.

    Attributes:
        curve: that it belongs to, the name of what is varied.
        value: of it.
        calls: at the same time.
        chunk_ms: audio in a message; None as the command line says.
        cores: of the server.
        flags: of the server.
    """

    curve: str
    value: int
    calls: int
    chunk_ms: int | None = None
    cores: int = 1
    flags: tuple[str, ...] = ()


def points(capacity: int) -> list[Point]:
    """What is measured of a server whose core serves so many calls in time."""
    moderate = max(1, round(MODERATE * capacity))
    found = [Point("calls", calls, calls) for calls in (*CALLS, capacity) if calls <= capacity]
    found += [Point("chunk_ms", length, moderate, chunk_ms=length) for length in CHUNKS_MS]
    if has_workers():
        found += [
            Point("workers", n, moderate * n, cores=n, flags=("--workers", str(n)))
            for n in WORKERS
            if n <= len(os.sched_getaffinity(0))
        ]
    return list(dict.fromkeys(found))


def summarised(point: Point, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Medians over the rounds, and the range of the cost: a shared host changes its speed."""
    costs = [run["cpu_ms_per_call_s"] for run in runs]
    names = ("generator_cpu_ms_per_call_s", "p99_ms", "late_sends_ms_p99")
    return {
        point.curve: point.value,
        "calls": point.calls,
        "cpu_ms_per_call_s": round(statistics.median(costs), 4),
        "cpu_ms_per_call_s_range": [min(costs), max(costs)],
        # None is of a run in which nothing was answered in time to be counted.
        **{
            name: statistics.median([run[name] for run in runs if run[name] is not None] or [0.0])
            for name in names
        },
        "lost": sum(run["lost"] for run in runs),
    }


def curves(
    options: argparse.Namespace, generators: Generators, capacity: int, console: Console
) -> dict[str, list[dict[str, Any]]]:
    """Points by curve: what was varied, ``cpu_ms_per_call_s`` and its range, ``p99_ms``, ``lost``.

    All points are measured in turn, and that :data:`ROUNDS` times: so that what the host does
    meanwhile falls on all of them.

    Args:
        options: of the command line.
        generators: that make the calls.
        capacity: calls that one core serves in time.
        console: for progress.
    """
    runs: dict[Point, list[dict[str, Any]]] = {point: [] for point in points(capacity)}
    for number, (point, found) in product(range(ROUNDS), runs.items()):
        bench = Bench(options, generators, cores(point.cores)[0])
        title = f"{point.curve} {point.value}"
        outcome, cost = bench.plain(
            point.calls, chunk_ms=point.chunk_ms, flags=point.flags, title=title
        )
        figures = outcome.figures() | {"cpu_ms_per_call_s": cost}
        found.append(figures)
        console.print(
            f"{number + 1}/{ROUNDS} {title:>14}: {point.calls} calls  CPU {cost:.3f}  "
            f"p99 {figures['p99_ms']} ms"
        )
    by_curve: dict[str, list[dict[str, Any]]] = {"calls": [], "chunk_ms": [], "workers": []}
    for point, found in runs.items():
        by_curve[point.curve].append(summarised(point, found))
    return by_curve
