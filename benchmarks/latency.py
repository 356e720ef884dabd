"""Load-test a server with live calls, paced in real time: latency, losses and CPU cost.

    python benchmarks/latency.py --calls 200 --seconds 60 --picture latency.png
    python benchmarks/latency.py --provider cuda --server-flags "--max-batch 256"
    python benchmarks/latency.py --target gateway.example:50051 --calls 20
    python benchmarks/latency.py --steps 1 32 256          # the model's step alone, no server

The load is an open loop: every chunk leaves when its audio has ended, however late predictions are.
Latency runs from the moment a chunk was due to be sent until the prediction that acknowledges it
arrives. The audio is the demo call in mu-law, A-law and linear16, from a different point in every
call; about half of it is silence. Calls start one after another, at most --starting a second, and
two seconds of warm-up follow; neither is counted. The server runs on a core of its own where there
are two, the generator on the others.

JSON keys: ``calls``, ``lost`` (without their final prediction), ``refused`` (before they were
accepted; not lost), ``errors`` (the first few), ``seconds`` (counted), ``chunk_ms``,
``predictions`` (in all), ``predictions_per_call_s``, ``p50_ms``, ``p90_ms``, ``p99_ms``,
``p99_9_ms``, ``max_ms``, ``server_cpu_ms_per_call_s`` (None with --target),
``generator_cpu_ms_per_call_s``, ``speech_share``, ``late_sends_ms_p99`` (lateness of the generator
itself), ``foreign_cpu_share`` (of the server's cores, used by other processes; a few per cent are
the kernel's), ``host_speed`` (None here, see throughput.py), ``trunk_ms`` (0: a stream for each
call), ``starting``, ``provider``, ``device``.

With --steps: ``ways``, a list of ``way``, ``model``, ``device`` and ``steps`` (for each number of
``blocks``: ``ms`` and ``cpu_ms``, medians of the rounds; ``blocks_per_s``), and ``device``. A GPU
step counts from arrays of the host to arrays of the host.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from load.generator import DEMO
from load.plots import plot_latency
from load.processes import (
    STARTING_PER_SECOND,
    Generators,
    Outcome,
    cores,
    on_cores,
    server_meter,
    write_json,
)
from rich.progress import track

from streamer.process.local_server import LocalServer, local_server

__all__ = ["DEMO", "device_name"]

STEP_ROUNDS = 7
STEP_SECONDS = 0.1
"""A round repeats a step for at least so long."""


def device_name(model_device: str = "CPU") -> str:
    """Return the processor's name, after that of the GPU if the model runs on one."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    gpu = "" if model_device == "CPU" else f"{model_device}; "
    return f"{gpu}{name}, {os.cpu_count()} cores"


def serving(server: LocalServer | None) -> dict[str, Any]:
    """Return the fields of the server's log line "serving", and of its first worker's."""
    events = {entry.get("event"): entry for entry in reversed(server.log if server else [])}
    return {**events.get("worker_serving", {}), **events.get("serving", {})}


def device_of(server: LocalServer | None) -> str:
    """Return :func:`device_name` for the device of the server's model."""
    return device_name(serving(server).get("device", "CPU"))


def measure(
    target: str,
    options: argparse.Namespace,
    server: LocalServer | None,
    server_cores: set[int],
    allowed: set[int],
) -> tuple[Outcome, dict[str, Any]]:
    """Run the calls; return the outcome and the JSON that the module documents."""

    def meter() -> dict[str, float]:
        return server_meter(server.process.pid, server_cores) if server else {}

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
    spent = outcome.metered.get("cpu")
    return outcome, {
        **outcome.figures(),
        "server_cpu_ms_per_call_s": None if spent is None else outcome.per_call_second(spent),
        "trunk_ms": options.trunk_ms,
        "starting": options.starting,
        "provider": serving(server).get("providers"),
        "device": device_of(server),
    }


def step_times(blocks: Sequence[int]) -> dict[str, Any]:
    """Time the model's step alone on every device there is, the devices in turns."""
    from streamer.errors import ModelFileError  # noqa: PLC0415 - generators need no model
    from streamer.inference.model import CPU_MODEL, DEFAULT_MODEL, OnnxModel  # noqa: PLC0415

    ways = [("CPU, float32", DEFAULT_MODEL, "cpu"), ("CPU, 8 bits", CPU_MODEL, "cpu")]
    models = {way: OnnxModel(path, provider=provider) for way, path, provider in ways}
    try:
        models["GPU, float32"] = OnnxModel(DEFAULT_MODEL, provider="cuda")
    except ModelFileError as error:
        print(f"no GPU: {error}", file=sys.stderr)
    took: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for _ in track(range(STEP_ROUNDS + 1), "steps", transient=True):  # the first warms up
        for count in blocks:
            for way, model in models.items():
                meta, noise = model.metadata, np.random.default_rng(count)
                samples = (0.05 * noise.standard_normal((count, meta.block))).astype(np.float32)
                feed = samples, np.full(count, meta.block), meta.fresh(count)
                runs, cpu, began = 0, time.process_time(), time.perf_counter()
                while runs < 3 or time.perf_counter() - began < STEP_SECONDS:
                    model.step(*feed)
                    runs += 1
                spent = (time.perf_counter() - began) / runs, (time.process_time() - cpu) / runs
                took.setdefault((way, count), []).append(spent)

    def figures(way: str, count: int) -> dict[str, float]:
        seconds, cpu = (statistics.median(c) for c in zip(*took[way, count][1:], strict=True))
        figures = {"ms": round(1000 * seconds, 4), "cpu_ms": round(1000 * cpu, 4)}
        return {"blocks": count, **figures, "blocks_per_s": round(count / seconds)}

    return {
        "ways": [
            {
                "way": way,
                "model": (CPU_MODEL if "8 bits" in way else DEFAULT_MODEL).name,
                "device": model.device,
                "steps": [figures(way, count) for count in blocks],
            }
            for way, model in models.items()
        ],
        "rounds": STEP_ROUNDS,
        "device": device_name([*models.values()][-1].device),
    }


def load_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that every benchmark of live calls has."""
    parser.add_argument("--chunk-ms", type=int, default=100, help="20 to 200 (%(default)s)")
    parser.add_argument(
        "--generators", type=int, default=1, help="processes that make the calls (%(default)s)"
    )
    parser.add_argument(
        "--calls-per-connection", type=int, default=50, help="of one gateway (%(default)s)"
    )
    parser.add_argument("--model", help="ONNX file for the server that is started")
    parser.add_argument(
        "--provider", choices=("auto", "cpu", "cuda"), default="auto", help="device of the model"
    )
    parser.add_argument(
        "--server-flags", default="", help='more flags for that server, "--max-batch 32 ..."'
    )
    parser.add_argument("--json", type=Path, help="write the result there too")
    parser.add_argument("--picture", type=Path, help="write a picture of it there (PNG)")
    parser.add_argument("--seed", type=int, default=1, help="of where each call begins")


def server_flags(options: argparse.Namespace, calls: int) -> list[str]:
    """Return the flags of a server that admits so many calls."""
    flags = ["--provider", options.provider, "--log-level", "info", "--max-calls", str(calls)]
    flags += ["--model", options.model] if options.model else []
    return flags + shlex.split(options.server_flags)


def main() -> int:
    """Command line; 1 if a call was lost."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=200, help="at the same time (%(default)s)")
    parser.add_argument("--seconds", type=int, default=60, help="counted (%(default)s)")
    parser.add_argument("--target", help="HOST:PORT of a running server; else one is started")
    parser.add_argument(
        "--server-cores", type=int, default=1, help="cores of the server (%(default)s)"
    )
    parser.add_argument(
        "--trunk-ms",
        type=float,
        default=0.0,
        help="the calls of a connection share a trunk, which sends every so many milliseconds "
        "(0: a stream for each call)",
    )
    parser.add_argument(
        "--starting",
        type=float,
        default=STARTING_PER_SECOND,
        help="most calls that start in a second (%(default)s)",
    )
    parser.add_argument(
        "--steps", type=int, nargs="+", help="time the model's step of so many blocks, no calls"
    )
    load_arguments(parser)
    options = parser.parse_args()
    if not options.starting > 0:
        parser.error(f"--starting: calls in a second, more than 0, got {options.starting:g}")
    if options.steps:
        write_json(step_times(options.steps), options.json)
        return 0
    server_cores, generator_cores = cores(options.server_cores)
    with contextlib.ExitStack() as stack:
        server = None
        if not options.target:
            with on_cores(server_cores):
                server = stack.enter_context(
                    local_server(*server_flags(options, options.calls + 10))
                )
        target = options.target or server.target  # type: ignore[union-attr]
        outcome, result = measure(target, options, server, server_cores, generator_cores)
    write_json(result, options.json)
    if options.picture:
        plot_latency(outcome.observed.latency, result, options.picture)
    return 1 if result["lost"] else 0


if __name__ == "__main__":
    sys.exit(main())
