"""Compare the CPU cost of two checkouts of the server under the same live calls.

    git worktree add ../before HEAD~10
    python benchmarks/compare.py --before ../before --json compare.json
    python benchmarks/compare.py --before ../before --rounds 12 --trunk-ms 10

Each round starts both servers anew as ``python -m streamer.serve`` in their checkouts, on the same
core, and runs the same calls on both at the same time (see latency.py): both meet the same minute
of a shared host, whose speed changes more than a small change of the code does. The order of start
alternates. The generator and the calls are those of the checkout that this script belongs to; of
the other one nothing is imported, so the two may have different modules.

Both servers share a core, so choose --calls for half of a core's capacity at most. Quote the ratio
with its spread; costs and latencies are not those of a server alone.

JSON keys: ``before`` and ``after``, each with ``checkout`` (commit), ``cpu_ms_per_call_s`` and
``p99_ms`` (medians of the rounds) and ``lost``; ``ratio`` (after by before: ``median``, ``min``,
``max``, ``error``, the standard error of the mean), ``rounds`` (``before``, ``after`` in CPU-ms per
call-second, and ``ratio`` of each), ``calls``, ``seconds``, ``chunk_ms``, ``trunk_ms``, ``device``.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from latency import device_of, load_arguments, server_flags
from load.processes import Generators, Outcome, cores, cpu_seconds, on_cores, write_json
from rich.progress import track

from streamer.process.local_server import LocalServer, local_server

HERE = Path(__file__).resolve().parents[1]
NAMES = ("before", "after")


@contextlib.contextmanager
def checkout_server(folder: Path, flags: Sequence[str]) -> Iterator[LocalServer]:
    """Start the server of a checkout in its folder.

    Raises:
        FileNotFoundError: the folder has no server.
        RuntimeError: the server ended before it served.
    """
    if not (folder / "streamer" / "serve.py").is_file():
        raise FileNotFoundError(f"{folder}: has no streamer/serve.py")
    with contextlib.ExitStack() as stack:
        with contextlib.chdir(folder):  # "-m" imports from the working directory first
            server = stack.enter_context(
                local_server(*flags, environment={"PYTHONPATH": str(folder)})
            )
        yield server


def commit_of(folder: Path) -> str:
    """Return the commit of a checkout, with "-dirty" if files differ from it."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    return done.stdout.strip() or "unknown"


def run_round(
    servers: dict[str, LocalServer],
    generators: dict[str, Generators],
    options: argparse.Namespace,
) -> dict[str, Outcome]:
    """Run the same calls on both servers at the same time."""

    def run(name: str) -> Outcome:
        pid = servers[name].process.pid
        return generators[name].run(
            servers[name].target,
            options.calls,
            options.seconds,
            chunk_ms=options.chunk_ms,
            meter=lambda: {"cpu": cpu_seconds(pid)},
            calls_per_connection=options.calls_per_connection,
            trunk_ms=options.trunk_ms,
            seed=options.seed,
        )

    with ThreadPoolExecutor(len(NAMES)) as threads:
        return dict(zip(NAMES, threads.map(run, NAMES), strict=True))


def ratio_of(before: Sequence[float], after: Sequence[float]) -> dict[str, float | None]:
    """Return median, range and standard error of the rounds' ratios."""
    ratios = [b / a for a, b in zip(before, after, strict=True)]
    error = statistics.stdev(ratios) / len(ratios) ** 0.5 if len(ratios) > 1 else None
    return {
        "median": round(statistics.median(ratios), 4),
        "min": round(min(ratios), 4),
        "max": round(max(ratios), 4),
        "error": None if error is None else round(error, 4),
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return the JSON that the module documents."""
    folders = {name: getattr(options, name).resolve() for name in NAMES}
    server_cores, generator_cores = cores()
    flags = server_flags(options, options.calls + 10)
    costs: dict[str, list[float]] = {name: [] for name in NAMES}
    figures: dict[str, list[dict[str, Any]]] = {name: [] for name in NAMES}
    device = ""
    with contextlib.ExitStack() as stack:
        generators = {
            name: stack.enter_context(Generators(options.generators, generator_cores))
            for name in NAMES
        }
        for number in track(range(options.rounds), "rounds", transient=True):
            with contextlib.ExitStack() as running, on_cores(server_cores):
                servers = {
                    name: running.enter_context(checkout_server(folders[name], flags))
                    for name in (NAMES if number % 2 else reversed(NAMES))
                }
                device = device_of(servers["after"])
                for name, outcome in run_round(servers, generators, options).items():
                    costs[name].append(outcome.per_call_second(outcome.metered["cpu"]))
                    figures[name].append(outcome.figures())
    sides = {
        name: {
            "checkout": commit_of(folders[name]),
            "cpu_ms_per_call_s": round(statistics.median(costs[name]), 4),
            "p99_ms": statistics.median(f["p99_ms"] or float("inf") for f in figures[name]),
            "lost": sum(f["lost"] + f["refused"] for f in figures[name]),
        }
        for name in NAMES
    }
    pairs = zip(costs["before"], costs["after"], strict=True)
    return {
        **sides,
        "ratio": ratio_of(costs["before"], costs["after"]),
        "rounds": [{"before": a, "after": b, "ratio": round(b / a, 4)} for a, b in pairs],
        **{name: getattr(options, name) for name in ("calls", "seconds", "chunk_ms", "trunk_ms")},
        "device": device,
    }


def main() -> int:
    """Command line; 1 if a call was lost or refused, or the ratio is above --most."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--before", type=Path, required=True, help="folder of the older checkout")
    add("--after", type=Path, default=HERE, help="folder of the newer one (this checkout)")
    add("--calls", type=int, default=100, help="on each server at a time (%(default)s)")
    add("--seconds", type=int, default=10, help="counted in each round (%(default)s)")
    add("--rounds", type=int, default=8, help="with fresh servers (%(default)s)")
    add("--trunk-ms", type=float, default=0.0, help="trunks, which send so often (0: streams)")
    add("--most", type=float, help="median ratio that fails the comparison if exceeded, as 1.02")
    load_arguments(parser)
    parser.set_defaults(provider="cpu")
    options = parser.parse_args()
    try:
        result = measure(options)
    except FileNotFoundError as error:
        parser.error(str(error))
    write_json(result, options.json)
    exceeded = options.most is not None and result["ratio"]["median"] > options.most
    return 1 if exceeded or any(result[name]["lost"] for name in NAMES) else 0


if __name__ == "__main__":
    sys.exit(main())
