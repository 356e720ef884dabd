"""Find the most live calls that one core serves in time, what they cost, and the floors of that.

    python benchmarks/throughput.py --json throughput.json --picture throughput.png
    python benchmarks/throughput.py --curves --seconds 30
    python benchmarks/throughput.py --trunk-ms 10

Calls are paced in real time, open loop (see latency.py). Their number doubles until p99 exceeds
--bound-ms or a call is lost or refused, and is then bisected to 5 %; the number that ends the
search has failed twice. Each step has a fresh server on one core. A step with a late generator is
repeated, and marked if it stays late. At 70 % of the capacity, three rounds measure in turns the
server, the server with CPU counters, and an empty gRPC servicer with the same calls.

JSON keys: ``max_calls`` (``capped`` if --most ended the search), ``bound_ms``, ``p99_ms_at_70``
(worst round at 70 % of ``max_calls``), ``p99_ms_at_30``, ``cpu_ms_per_call_s`` at 70 %, means of
the rounds: ``total`` and its parts ``transport`` (gRPC, event loop, all the rest), ``decode_vad``,
``decisions``, ``batching`` (the engine's thread without the step, and passing results on),
``model``; beside them ``empty_servicer``, ``empty_servicer_default`` (gRPC's default polling, one
round), ``total_without_counters``; ``transport_over_empty`` (median ratio), ``rounds`` (each one),
``mean_batch`` (blocks a step), ``gemm_*`` (see load/floors.py; on a CPU only), ``steps`` of the
search (keys of latency.py, ``held``, ``generator_late``, ``host_speed``: million turns of a Python
loop in a CPU second), ``generator_limited`` (a late generator ended the search: use more
--generators), ``curves`` (with --curves: points of ``calls``, ``chunk_ms``, ``workers`` with
``cpu_ms_per_call_s``, its range, and ``p99_ms``, over three rounds), ``trunks`` (with --trunk-ms:
the same figures for calls on trunks), ``seconds`` of a step, ``chunk_ms``, ``provider``,
``device``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from latency import device_name, load_arguments, server_flags, serving
from load import cpu_breakdown
from load.cpu_breakdown import CounterReader, breakdown
from load.floors import empty_servicer, gemm_share
from load.plots import plot_throughput
from load.processes import Generators, Outcome, cores, on_cores, server_meter, speed, write_json
from rich.console import Console

from streamer.inference.model import CPU_MODEL
from streamer.process.local_server import local_server

console = Console(stderr=True)
PRECISION = 1.05
TRIALS = 2  # failures of the number that ends the search
ATTEMPTS = ROUNDS = 3
"""Attempts of one step with a late generator; rounds of costs and curves."""
LATE_SHARE = 0.25
"""Share of the bound above which the generator's own p99 lateness counts as late."""
CURVE_CALLS, CURVE_WORKERS = (25, 50, 100, 200, 400, 800, 1600, 3200), (1, 2, 4, 8)
CURVE_CHUNKS_MS = (20, 40, 60, 100, 200)
MODERATE = 0.25
"""Share of the capacity for these curves: 20 ms chunks cost several times as much as 100 ms."""


class Bench:
    """Run calls against fresh servers on cores of their own.

    Args:
        options: of the command line.
        generators: make the calls.
        carrying: ``trunk_ms`` and ``calls_per_connection`` of :class:`load.generator.Plan`.

    Attributes:
        serving: fields of the last server's log line "serving".
    """

    def __init__(
        self, options: argparse.Namespace, generators: Generators, **carrying: float
    ) -> None:
        self._options = options
        self._generators = generators
        self._carrying: dict[str, Any] = {
            "calls_per_connection": options.calls_per_connection
        } | carrying
        self.serving: dict[str, Any] = {}

    def plain(
        self,
        calls: int,
        *,
        chunk_ms: int | None = None,
        workers: int | None = None,
        counters: Path | None = None,
        title: str,
    ) -> Outcome:
        """Run calls against a server, with counters if there is a file for them."""
        chosen = cores(workers or 1)[0]
        flags = ["--workers", str(workers)] if workers else []
        command = (cpu_breakdown.__file__,) if counters else ("-m", "streamer.serve")
        variables = {cpu_breakdown.VARIABLE: str(counters)} if counters else {}
        flags += server_flags(self._options, calls + 10)
        with on_cores(chosen), local_server(*flags, command=command, environment=variables) as s:
            self.serving = serving(s)
            before = speed(chosen)
            outcome = self._generators.run(
                s.target,
                calls,
                self._options.seconds,
                chunk_ms=chunk_ms or self._options.chunk_ms,
                meter=CounterReader(s, counters)
                if counters
                else lambda: server_meter(s.process.pid, chosen),
                seed=self._options.seed,
                title=title,
                **self._carrying,
            )
            outcome.host_speed = round((before + speed(chosen)) / 2, 1)
        return outcome

    def counted(self, calls: int, *, title: str) -> tuple[Outcome, dict[str, float]]:
        """Run calls against a server with counters; return its CPU cost by part, too."""
        with tempfile.TemporaryDirectory() as folder:
            outcome = self.plain(calls, counters=Path(folder) / "counters.json", title=title)
        return outcome, breakdown(outcome.metered, outcome.call_seconds)

    def empty(self, calls: int, experiments: str = "") -> float:
        """Return CPU-ms per call-second of the empty servicer with the same calls."""
        return empty_servicer(
            self._generators,
            cores()[0],
            experiments,
            calls=calls,
            seconds=self._options.seconds,
            chunk_ms=self._options.chunk_ms,
            title=f"{calls} calls, empty servicer",
            **self._carrying,
        )


def search(holds: Callable[[int], bool], start: int, most: int) -> int:
    """Return the largest number that holds, to 5 %; 0 if none does.

    Double or halve from ``start``, then bisect. A number at which the search would end is tried
    again, since a slow minute of the host may have failed it.
    """
    low, failed = 0, dict[int, int]()
    while low < most:
        high = min((number for number in failed if number > low), default=None)
        if high is None:
            tried = min(2 * low or start, most)
        elif high - low > 1 and high > PRECISION * low:
            tried = round((low * high) ** 0.5) if low else high // 2
            tried = min(max(tried, low + 1), high - 1)
        elif failed[high] < TRIALS:
            tried = high
        else:
            break
        if holds(tried):
            low = tried
        else:
            failed[tried] = failed.get(tried, 0) + 1
    return low


class Capacity:
    """The search for the capacity, and the figures of each step of it."""

    def __init__(self, bench: Bench, bound_ms: float) -> None:
        self._bench = bench
        self._bound_ms = bound_ms
        self.steps: list[dict[str, Any]] = []

    def holds(self, calls: int) -> bool:
        """Return whether p99 stays under the bound with no call lost or refused."""
        for _ in range(ATTEMPTS):
            figures = costed(self._bench.plain(calls, title=f"{calls} calls"))
            p99, lateness = figures["p99_ms"], figures["late_sends_ms_p99"]
            complete = not figures["lost"] and not figures["refused"]
            held = complete and p99 is not None and p99 <= self._bound_ms
            late = lateness > LATE_SHARE * self._bound_ms
            self.steps.append(figures | {"held": held, "generator_late": late})
            console.print(
                f"{calls:6d} calls  p99 {p99} ms  lost {figures['lost']}  refused "
                f"{figures['refused']}  CPU {figures['server_cpu_ms_per_call_s']:.3f} ms per "
                f"call-second  generator p99 {lateness} ms late  {'held' if held else 'not held'}"
            )
            if held or not late:
                return held
        return False

    @property
    def generator_limited(self) -> bool:
        """Whether the step that ended the search failed with a late generator each time."""
        most = max((step["calls"] for step in self.steps if step["held"]), default=0)
        failed = [step["calls"] for step in self.steps if step["calls"] > most]
        last = [step for step in self.steps if failed and step["calls"] == min(failed)]
        return bool(last) and all(step["generator_late"] for step in last)


def costed(outcome: Outcome) -> dict[str, Any]:
    """Return the figures of a run with the server's cost."""
    cost = outcome.per_call_second(outcome.metered["cpu"])
    return outcome.figures() | {"server_cpu_ms_per_call_s": cost}


def cost_round(bench: Bench, calls: int, number: int) -> dict[str, Any]:
    """Measure the server, the server with counters and the empty servicer, one after another."""
    plain = bench.plain(calls, title=f"{calls} calls, 70 %, {number}")
    counted, parts = bench.counted(calls, title=f"{calls} calls, counted, {number}")
    empty, without = bench.empty(calls), costed(plain)["server_cpu_ms_per_call_s"]
    return {
        "cpu_ms_per_call_s": {**parts, "empty_servicer": empty, "total_without_counters": without},
        "transport_over_empty": round(parts["transport"] / empty, 3),
        "p99_ms": plain.figures()["p99_ms"],
        "host_speed": [plain.host_speed, counted.host_speed],
        "mean_batch": round(counted.metered["blocks"] / counted.metered["steps"], 2),
    }


def mean(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each figure."""
    return {name: round(statistics.mean(one[name] for one in rounds), 4) for name in rounds[0]}


def measure(options: argparse.Namespace, bench: Bench) -> dict[str, Any]:
    """Return the JSON that the module documents, for streams or for trunks."""
    capacity = Capacity(bench, options.bound_ms)
    most = search(capacity.holds, options.start, options.most)
    at_70, at_30 = (max(1, round(share * most)) for share in (0.7, 0.3))
    at_30_p99 = bench.plain(at_30, title=f"{at_30} calls, 30 %").figures()["p99_ms"]
    rounds = [cost_round(bench, at_70, number) for number in range(1, ROUNDS + 1)]
    return {
        "max_calls": most,
        "capped": most == options.most,
        "bound_ms": options.bound_ms,
        "p99_ms_at_70": max((one["p99_ms"] for one in rounds), key=lambda p99: p99 or float("inf")),
        "p99_ms_at_30": at_30_p99,
        "cpu_ms_per_call_s": {
            **mean([one["cpu_ms_per_call_s"] for one in rounds]),
            "empty_servicer_default": bench.empty(at_70, "_default"),
        },
        "transport_over_empty": statistics.median(one["transport_over_empty"] for one in rounds),
        "mean_batch": round(statistics.mean(one["mean_batch"] for one in rounds), 2),
        "rounds": rounds,
        "steps": capacity.steps,
        "generator_limited": capacity.generator_limited,
    }


def curve_points(capacity: int) -> list[tuple[str, int, dict[str, Any]]]:
    """Return curve, value and arguments of :meth:`Bench.plain` of each point."""
    moderate, usable = max(1, round(MODERATE * capacity)), len(os.sched_getaffinity(0))
    sizes = dict.fromkeys(calls for calls in (*CURVE_CALLS, capacity) if calls <= capacity)
    points = [("calls", calls, {"calls": calls}) for calls in sizes]
    points += [("chunk_ms", ms, {"calls": moderate, "chunk_ms": ms}) for ms in CURVE_CHUNKS_MS]
    return points + [
        ("workers", n, {"calls": moderate * n, "workers": n}) for n in CURVE_WORKERS if n <= usable
    ]


def curves(bench: Bench, capacity: int) -> dict[str, list[dict[str, Any]]]:
    """Measure all points in turn, :data:`ROUNDS` times, so that the host's changes meet all."""
    points = curve_points(capacity)
    runs: list[list[dict[str, Any]]] = [[] for _ in points]
    for _, (index, (name, value, load)) in product(range(ROUNDS), enumerate(points)):
        runs[index].append(costed(bench.plain(title=f"{name} {value}", **load)))
    found: dict[str, list[dict[str, Any]]] = {}
    for (name, value, load), seen in zip(points, runs, strict=True):
        found.setdefault(name, []).append({name: value, "calls": load["calls"]} | summary(seen))
    return found


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return medians over the rounds of one point, and the range of the cost."""
    costs = [run["server_cpu_ms_per_call_s"] for run in runs]
    latencies = [run["p99_ms"] for run in runs if run["p99_ms"] is not None]
    return {
        "cpu_ms_per_call_s": round(statistics.median(costs), 4),
        "cpu_ms_per_call_s_range": [min(costs), max(costs)],
        "p99_ms": statistics.median(latencies) if latencies else None,
        "lost": sum(run["lost"] for run in runs),
    }


def main() -> int:
    """Command line; 1 if not a single call holds the bound."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--bound-ms", type=float, default=50.0, help="p99 that must hold (%(default)s)")
    add("--seconds", type=int, default=15, help="counted in each step (%(default)s)")
    add("--start", type=int, default=50, help="calls to begin with (%(default)s)")
    add("--most", type=int, default=20_000, help="calls to stop at (%(default)s)")
    add("--curves", action="store_true", help="cost by calls, chunk length and workers as well")
    add("--trunk-ms", type=float, default=0.0, help="measure trunks, too, which send so often (0)")
    add("--calls-per-trunk", type=int, default=200, help="of one gateway (%(default)s)")
    load_arguments(parser)
    options = parser.parse_args()
    with Generators(options.generators, cores()[1]) as generators:
        bench = Bench(options, generators)
        result, ours = measure(options, bench), bench.serving
        if ours["device"] == "CPU":
            result |= gemm_share(Path(options.model or CPU_MODEL), cores()[0])
        if options.trunk_ms:
            trunk_ms, calls = options.trunk_ms, options.calls_per_trunk
            trunks = Bench(options, generators, trunk_ms=trunk_ms, calls_per_connection=calls)
            figures = {"trunk_ms": trunk_ms, "calls_per_trunk": calls}
            result["trunks"] = measure(options, trunks) | figures
        if options.curves:
            result["curves"] = curves(bench, max(1, result["max_calls"]))
    result |= {"seconds": options.seconds, "chunk_ms": options.chunk_ms}
    result |= {"provider": ours["providers"], "device": device_name(ours["device"])}
    write_json(result, options.json)
    if options.picture:
        plot_throughput(result, options.picture)
    return 0 if result["max_calls"] else 1


if __name__ == "__main__":
    sys.exit(main())
