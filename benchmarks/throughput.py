"""The most live calls that one core serves in time, what they cost, and how near that is to floors.

    python benchmarks/throughput.py --json throughput.json --picture throughput.png
    python benchmarks/throughput.py --curves --seconds 30
    python benchmarks/throughput.py --trunk-ms 10

Calls are paced in real time, open loop; see latency.py. Their number doubles until p99 exceeds
--bound-ms or a call is lost or refused, and is then bisected to 5 %; what ends the search has
failed twice. Each step has a fresh server, kept to one core. A step whose generator was late itself
is repeated, and marked if it stays so.
At 70 % of the capacity found, a server with counters says what the CPU is spent on, and an empty
gRPC servicer, with the same calls, what no server could save; three rounds in turns with the server
itself, as the speed of a shared host changes.

JSON keys: ``max_calls`` (``capped`` if --most ended the search), ``bound_ms``, ``p99_ms_at_70``,
``p99_ms_at_30`` (at these percentages of ``max_calls``; the first the worst of the rounds),
``cpu_ms_per_call_s`` at 70 %, means of the rounds: ``total`` without what counting takes, and its
parts ``transport`` (gRPC, event loop, all that is not counted apart), ``decode_vad``,
``decisions``, ``batching`` (the engine's thread but for the step, and giving its answers to their
calls), ``model``; beside them ``empty_servicer`` (gRPC polling as our server sets it) and
``empty_servicer_default`` (one round), and ``total_without_counters``. ``transport_over_empty``
(median of the rounds' ratios), ``rounds`` (all that of each), ``mean_batch`` (blocks a step there),
``gemm_fraction``, ``gemm_gflops``, ``gemm_curve`` and ``gemm_model`` (see floors.py;
not on a GPU, see step_cost.py),
``steps`` of the search (the figures of latency.py each, and ``host_speed``: million turns of a loop
of Python in a CPU second on the server's core, mean of before and after), ``generator_limited``
(true: a generator that was late ended the search; use --generators on more cores), ``curves`` (with
--curves: ``calls``, ``chunk_ms``, ``workers``; each point with ``cpu_ms_per_call_s`` and
``p99_ms``, medians of three rounds, and ``cpu_ms_per_call_s_range``), ``trunks`` (with --trunk-ms:
of all that but products and curves the figures for calls on trunks, ``trunk_ms``,
``calls_per_trunk``, and ``side_by_side``: cost of server and generator, p99 and host_speed of the
same ``calls`` on ``streams`` and on ``trunks``, three rounds in turns), ``seconds`` of a step,
``chunk_ms``, ``provider``, ``device``.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from floors import BATCHES, gemm
from latency import device_name, load_arguments
from load.curves import ROUNDS, curves
from load.pictures import throughput_picture
from load.run import Generators, cores, write_json
from load.split import Bench
from rich.console import Console

from streamer.inference.model import CPU_MODEL

console = Console(stderr=True)
PRECISION = 1.05
TRIALS = 2
"""Of the number that ends the search."""
ATTEMPTS = 3
"""Of one step; the first that holds counts."""
SIDE_BY_SIDE = ("server", "generator", "p99_ms", "host_speed")
LATE_SHARE = 0.25
"""A generator whose own p99 lateness is more of the bound than this measures itself."""


def search(holds: Callable[[int], bool], start: int, most: int) -> int:
    """Largest number that holds, to 5 %; 0 if none does.

    Doubled or halved from ``start``, then bisected. A number has failed for good when it did so
    twice: where the search would end, what failed is tried again, for that may have been the fault
    of slow minutes of the host.
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
    """The search, and what each step of it found."""

    def __init__(self, bench: Bench, bound_ms: float) -> None:
        self._bench = bench
        self._bound_ms = bound_ms
        self.steps: list[dict[str, Any]] = []

    def holds(self, calls: int) -> bool:
        """Whether p99 stays under the bound with nothing lost or refused."""
        for _ in range(ATTEMPTS):
            outcome, cost = self._bench.plain(calls, title=f"{calls} calls")
            figures = outcome.figures() | {"server_cpu_ms_per_call_s": cost}
            p99 = figures["p99_ms"]
            fine = not figures["lost"] and not figures["refused"]
            held = fine and p99 is not None and p99 <= self._bound_ms
            late = figures["late_sends_ms_p99"] > LATE_SHARE * self._bound_ms
            self.steps.append(figures | {"held": held, "generator_late": late})
            console.print(
                f"{calls:6d} calls  p99 {p99} ms  lost {figures['lost']}  refused "
                f"{figures['refused']}  CPU {cost:.3f} ms per call-second  generator "
                f"{figures['generator_cpu_ms_per_call_s']:.3f}, p99 "
                f"{figures['late_sends_ms_p99']} ms late  others on the core "
                f"{figures['foreign_cpu_share']:.0%}  host {figures['host_speed']}  "
                f"{'held' if held else 'not held'}"
            )
            if held or not late:
                return held
        return False

    @property
    def generator_limited(self) -> bool:
        """Whether what ended the search failed with a late generator each time."""
        most = max((step["calls"] for step in self.steps if step["held"]), default=0)
        failed = [step["calls"] for step in self.steps if step["calls"] > most]
        last = [step for step in self.steps if failed and step["calls"] == min(failed)]
        return bool(last) and all(step["generator_late"] for step in last)


def measure(options: argparse.Namespace, bench: Bench) -> dict[str, Any]:
    """The JSON that the module documents, for one way of carrying the calls."""
    capacity = Capacity(bench, options.bound_ms)
    most = search(capacity.holds, options.start, options.most)
    at_70, at_30 = (max(1, round(share * most)) for share in (0.7, 0.3))
    third, _ = bench.plain(at_30, title=f"{at_30} calls, 30 %")
    rounds = [spent(bench, at_70, number) for number in range(1, ROUNDS + 1)]
    return {
        "max_calls": most,
        "capped": most == options.most,
        "bound_ms": options.bound_ms,
        "p99_ms_at_70": max((one["p99_ms"] for one in rounds), key=lambda p99: p99 or float("inf")),
        "p99_ms_at_30": third.figures()["p99_ms"],
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


def spent(bench: Bench, calls: int, number: int) -> dict[str, Any]:
    """One round: what the server's CPU is spent on, and the empty servicer right after it."""
    plain, without = bench.plain(calls, title=f"{calls} calls, 70 %, {number}")
    counted, parts = bench.measured(calls, title=f"{calls} calls, counted, {number}")
    empty = bench.empty(calls)
    return {
        "cpu_ms_per_call_s": {**parts, "empty_servicer": empty, "total_without_counters": without},
        "transport_over_empty": round(parts["transport"] / empty, 3),
        "p99_ms": plain.figures()["p99_ms"],
        "host_speed": [plain.host_speed, counted.host_speed],
        "mean_batch": round(counted.metered["blocks"] / counted.metered["steps"], 2),
    }


def mean(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of each figure; means of parts add up as the parts do."""
    return {name: round(statistics.mean(one[name] for one in rounds), 4) for name in rounds[0]}


def side_by_side(ways: Mapping[str, Bench], calls: int) -> dict[str, Any]:
    """CPU-ms per call-second of server and generator each way, in turns."""
    found: dict[str, Any] = {"calls": calls}
    for number, (name, bench) in product(range(ROUNDS), ways.items()):
        outcome, cost = bench.plain(calls, title=f"{calls} calls, {name}, {number + 1}")
        figures = outcome.figures()
        way = found.setdefault(name, {key: [] for key in SIDE_BY_SIDE})
        way["server"].append(cost)
        way["generator"].append(figures["generator_cpu_ms_per_call_s"])
        for key in ("p99_ms", "host_speed"):
            way[key].append(figures[key])
    return found


def main() -> int:
    """Command line; 1 if not a single call holds the bound."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--bound-ms", type=float, default=50.0, help="p99 that must hold (%(default)s)"
    )
    parser.add_argument("--seconds", type=int, default=15, help="counted each step (%(default)s)")
    parser.add_argument("--start", type=int, default=50, help="calls to begin with (%(default)s)")
    parser.add_argument("--most", type=int, default=20_000, help="calls to stop at (%(default)s)")
    parser.add_argument(
        "--batches", type=int, nargs="+", default=BATCHES, help="blocks in a step (%(default)s)"
    )
    parser.add_argument(
        "--curves", action="store_true", help="cost over calls, chunk length and workers as well"
    )
    parser.add_argument(
        "--trunk-ms",
        type=float,
        default=0.0,
        help="measure the same on trunks, on which what their calls have is sent every so many "
        "milliseconds (0: only on streams)",
    )
    parser.add_argument(
        "--calls-per-trunk", type=int, default=200, help="of one gateway (%(default)s)"
    )
    load_arguments(parser)
    options = parser.parse_args()
    mine, theirs = cores()
    with Generators(options.generators, theirs) as generators:
        ways = {"streams": Bench(options, generators, mine)}
        result = measure(options, ways["streams"])
        device = ways["streams"].serving["device"]
        if device == "CPU":
            result |= gemm(Path(options.model or CPU_MODEL), mine, options.batches)
        if options.trunk_ms:
            ways["trunks"] = Bench(
                options,
                generators,
                mine,
                trunk_ms=options.trunk_ms,
                together=options.calls_per_trunk,
            )
            result["trunks"] = {
                **measure(options, ways["trunks"]),
                "trunk_ms": options.trunk_ms,
                "calls_per_trunk": options.calls_per_trunk,
                "side_by_side": side_by_side(ways, max(1, round(0.7 * result["max_calls"]))),
            }
        if options.curves:
            result["curves"] = curves(options, generators, max(1, result["max_calls"]), console)
    result |= {"seconds": options.seconds, "chunk_ms": options.chunk_ms}
    result |= {"provider": ways["streams"].serving["providers"], "device": device_name(device)}
    write_json(result, options.json)
    if options.picture:
        throughput_picture(result, options.picture)
    return 0 if result["max_calls"] else 1


if __name__ == "__main__":
    sys.exit(main())
