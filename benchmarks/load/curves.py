"""The server's cost over the number of calls, the length of a chunk and the number of workers."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from typing import Any

from rich.console import Console

from load.run import Generators, cores
from load.split import Bench

CALLS = (25, 50, 100, 200, 400, 800, 1600, 3200)
CHUNKS_MS = (20, 40, 60, 100, 200)
WORKERS = (1, 2, 4, 8)
MODERATE = 0.25
"""Share of the capacity at which chunk lengths are compared: chunks of 20 ms cost several times
what those of 100 ms do, and must still be served in time."""


def has_workers() -> bool:
    """Whether the server can run several processes."""
    command = [sys.executable, "-m", "streamer.serve", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    return "--workers" in done.stdout


def curves(
    options: argparse.Namespace, generators: Generators, capacity: int, console: Console
) -> dict[str, list[dict[str, Any]]]:
    """Points by curve: what was varied, ``cpu_ms_per_call_s``, ``p99_ms``, ``lost``.

    Args:
        options: of the command line.
        generators: that make the calls.
        capacity: calls that one core serves in time.
        console: for progress.
    """
    found: dict[str, list[dict[str, Any]]] = {"calls": [], "chunk_ms": [], "workers": []}
    moderate = max(1, round(MODERATE * capacity))

    def point(
        curve: str,
        value: int,
        calls: int,
        *,
        chunk_ms: int | None = None,
        server_cores: int = 1,
        flags: tuple[str, ...] = (),
    ) -> None:
        bench = Bench(options, generators, cores(server_cores)[0])
        title = f"{curve} {value}"
        outcome, cost = bench.plain(calls, chunk_ms=chunk_ms, flags=flags, title=title)
        figures = outcome.figures()
        found[curve].append(
            {
                curve: value,
                "calls": calls,
                "cpu_ms_per_call_s": cost,
                "generator_cpu_ms_per_call_s": figures["generator_cpu_ms_per_call_s"],
                "p99_ms": figures["p99_ms"],
                "late_sends_ms_p99": figures["late_sends_ms_p99"],
                "lost": figures["lost"],
            }
        )
        console.print(f"{title:>14}: {calls} calls  CPU {cost:.3f}  p99 {figures['p99_ms']} ms")

    for calls in [*(n for n in CALLS if n < capacity), capacity]:
        point("calls", calls, calls)
    for chunk_ms in CHUNKS_MS:
        point("chunk_ms", chunk_ms, moderate, chunk_ms=chunk_ms)
    if has_workers():
        for workers in (n for n in WORKERS if n <= len(os.sched_getaffinity(0))):
            flags = ("--workers", str(workers))
            point("workers", workers, moderate * workers, server_cores=workers, flags=flags)
    return found
