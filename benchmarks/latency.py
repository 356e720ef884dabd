"""Live calls paced in real time: latency, losses and the server's CPU cost.

    python benchmarks/latency.py --calls 200 --seconds 60 --picture latency.png
    python benchmarks/latency.py --provider cuda --server-flags "--max-batch 256"
    python benchmarks/latency.py --calls 280 --seconds 30 --profile profile.svg

Open loop: every chunk leaves when its audio has ended, however late answers are. Latency is from
the moment a chunk was due to be sent until the prediction that acknowledges it arrives. The audio
is the demo call in mu-law, A-law and linear16, from a different point in every call: about half
of it is silence. The calls start one after another, at most --starting a second, then two seconds
warm up; neither is counted.

The server that is started gets a core of its own where there are two, the generator the others.
--profile draws what its CPU time is spent on while it is counted, as a flame graph; py-spy stops
the server for each of its samples, so take no latency or cost from such a run.

JSON keys: ``calls``, ``lost`` (without their final prediction), ``refused`` (turned away before
they began; not lost), ``errors`` (first few), ``seconds`` (counted), ``chunk_ms``,
``predictions`` (in all), ``predictions_per_call_s``, ``p50_ms``, ``p90_ms``, ``p99_ms``,
``p99_9_ms``, ``max_ms``, ``server_cpu_ms_per_call_s`` (None with --target),
``generator_cpu_ms_per_call_s``, ``speech_share``, ``late_sends_ms_p99`` (how late the generator
itself was), ``foreign_cpu_share`` (of the server's cores, used by others meanwhile; a few per cent
are the kernel's), ``trunk_ms`` (0: a stream for each call), ``starting``, ``profiled`` (true with
--profile), ``provider``, ``device``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import shlex
import sys
from pathlib import Path
from typing import Any

from load.calls import DEMO
from load.pictures import latency_picture
from load.profiling import Profiler
from load.run import (
    STARTING_PER_SECOND,
    Generators,
    Outcome,
    cores,
    on_cores,
    server_meter,
    write_json,
)

from streamer.process.local_server import LocalServer, local_server

__all__ = ["DEMO", "device_name"]


def device_name(student: str = "CPU") -> str:
    """Processor as the system names it, behind the GPU that the student runs on, if it does."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    gpu = "" if student == "CPU" else f"{student}; "
    return f"{gpu}{name}, {os.cpu_count()} cores"


def serving(server: LocalServer | None) -> dict[str, Any]:
    """What the server said of itself when it began to serve, or the first of its workers."""
    said = {entry.get("event"): entry for entry in reversed(server.log if server else [])}
    return {**said.get("worker_serving", {}), **said.get("serving", {})}


def device_of(server: LocalServer | None) -> str:
    """:func:`device_name` of what the server's student runs on."""
    return device_name(serving(server).get("device", "CPU"))


def measure(
    target: str,
    options: argparse.Namespace,
    server: LocalServer | None,
    mine: set[int],
    allowed: set[int],
) -> tuple[Outcome, dict[str, Any]]:
    """One run, and the JSON that the module documents.

    Raises:
        FileNotFoundError: a profile is wanted, and py-spy is not installed.
        RuntimeError: py-spy could not make it.
    """
    profiler = Profiler(server.process.pid, options.profile) if server and options.profile else None

    def meter() -> dict[str, float]:  # first called when counting begins
        if profiler and not profiler.started:
            profiler.start(options.seconds)
        return server_meter(server.process.pid, mine) if server else {}

    with Generators(options.generators, allowed) as generators:
        outcome = generators.run(
            target,
            options.calls,
            options.seconds,
            chunk_ms=options.chunk_ms,
            meter=meter,
            calls_per_connection=options.calls_per_connection,
            trunk_ms=options.trunk_ms,
            starting=options.starting,
            seed=options.seed,
            title=f"{options.calls} calls",
        )
    if profiler:
        profiler.finish()
    used = outcome.metered.get("cpu")
    return outcome, {
        **outcome.figures(),
        "server_cpu_ms_per_call_s": None if used is None else outcome.per_call_second(used),
        "trunk_ms": options.trunk_ms,
        "starting": options.starting,
        "profiled": profiler is not None,
        "provider": serving(server).get("providers"),
        "device": device_of(server),
    }


def load_arguments(parser: argparse.ArgumentParser) -> None:
    """What every benchmark of live calls may be told."""
    parser.add_argument("--chunk-ms", type=int, default=100, help="20 to 200 (%(default)s)")
    parser.add_argument(
        "--generators", type=int, default=1, help="processes that make the calls (%(default)s)"
    )
    parser.add_argument(
        "--calls-per-connection", type=int, default=50, help="of one gateway (%(default)s)"
    )
    parser.add_argument("--model", help="student for the server that is started")
    parser.add_argument(
        "--provider", choices=("auto", "cpu", "cuda"), default="auto", help="where it runs"
    )
    parser.add_argument(
        "--server-flags", default="", help='more flags for that server, "--max-batch 32 ..."'
    )
    parser.add_argument("--json", type=Path, help="write the result there too")
    parser.add_argument("--picture", type=Path, help="write a picture of it there (PNG or SVG)")
    parser.add_argument("--seed", type=int, default=1, help="of where each call begins")


def server_flags(options: argparse.Namespace, calls: int) -> list[str]:
    """Flags of a server for so many calls."""
    flags = ["--provider", options.provider, "--log-level", "info", "--max-calls", str(calls)]
    flags += ["--model", options.model] if options.model else []
    return flags + shlex.split(options.server_flags)


def main() -> int:
    """Command line; 1 if a call was lost."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=200, help="at the same time (%(default)s)")
    parser.add_argument("--seconds", type=int, default=60, help="that are counted (%(default)s)")
    parser.add_argument("--target", help="HOST:PORT of a running server; else one is started")
    parser.add_argument(
        "--server-cores", type=int, default=1, help="cores of the server (%(default)s)"
    )
    parser.add_argument(
        "--profile", type=Path, help="draw a flame graph of the started server there (SVG)"
    )
    parser.add_argument(
        "--trunk-ms",
        type=float,
        default=0.0,
        help="the calls of a connection share one stream, a trunk, on which what they have is sent "
        "every so many milliseconds (0: each has a stream of its own)",
    )
    parser.add_argument(
        "--starting",
        type=float,
        default=STARTING_PER_SECOND,
        help="calls that begin in a second, at most (%(default)s)",
    )
    load_arguments(parser)
    options = parser.parse_args()
    if not options.starting > 0:
        parser.error(f"--starting: calls in a second, more than 0, got {options.starting:g}")
    if options.profile and options.target:
        parser.error("--profile: only a server that is started here is profiled, not a --target")
    mine, theirs = cores(options.server_cores)
    with contextlib.ExitStack() as stack:
        server = None
        if not options.target:
            with on_cores(mine):
                server = stack.enter_context(
                    local_server(*server_flags(options, options.calls + 10))
                )
        target = options.target or server.target  # type: ignore[union-attr]
        outcome, result = measure(target, options, server, mine, theirs)
    write_json(result, options.json)
    if options.picture:
        latency_picture(outcome.seen.latency, result, options.picture)
    return 1 if result["lost"] else 0


if __name__ == "__main__":
    sys.exit(main())
