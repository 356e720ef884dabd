"""More calls than one core can serve: what becomes of them, and how fast the rest recovers.

    python benchmarks/overload.py --throughput throughput.json --picture overload.png
    python benchmarks/overload.py --capacity 800 --seconds 20 --after 20

Half the capacity's calls start first and stay to the end; after six seconds as many come besides
as make 150 %, and leave after --seconds. Calls are paced in real time, open loop; see latency.py.
Refused calls do not come back. A prediction that the server leaves out counts until the next one,
so a stretched interval shows in p99. The server has one core; its own limit on the number of calls
is set beyond what is offered, unless --max-calls says otherwise.

JSON keys: ``capacity``, ``offered``, ``refused`` (before they began), ``lost`` (accepted, without
their final prediction), ``errors``, ``bound_ms``, ``p99_ms_before``, ``p99_ms_overloaded``,
``p99_ms_after`` (of the half, of all accepted calls, of the half again), ``rise_second`` and
``drop_second`` (when the first of the additional calls comes, and when the last has left),
``recovered_seconds`` (from the drop until p99 of every second that follows is under the bound; None
if never), ``late_sends_ms_p99`` (of the generators), ``per_second`` (``second``, ``predictions``,
``p99_ms`` of chunks due in it, ``refused``, ``lost``), ``device``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from latency import device_of, load_arguments, server_flags
from load.calls import SPREAD_SECONDS, Plan, Seen
from load.pictures import overload_picture
from load.run import LEAD_SECONDS, Generators, cores, on_cores, quantiles_ms, write_json
from rich.progress import track

from streamer.process.local_server import local_server

HALF, MORE = 0.5, 1.0
"""Of the capacity: the calls that stay, and those that come besides."""
ALONE_SECONDS = 6.0
"""That the half has for itself at first."""


def shifted(seen: Seen, seconds: float) -> Seen:
    """The same, on a clock that began earlier."""
    for name in ("due", "arrivals", "refused_at", "lost_at"):
        setattr(seen, name, [at + seconds for at in getattr(seen, name)])
    return seen


def per_second(seen: Seen, seconds: int) -> list[dict[str, Any]]:
    """What happened in each second."""
    due, latency = np.array(seen.due), np.array(seen.latency)

    def count(at: Sequence[float], second: int) -> int:
        return sum(second <= value < second + 1 for value in at)

    return [
        {
            "second": second,
            "predictions": count(seen.arrivals, second),
            "p99_ms": quantiles_ms(latency[(due >= second) & (due < second + 1)].tolist())[
                "p99_ms"
            ],
            "refused": count(seen.refused_at, second),
            "lost": count(seen.lost_at, second),
        }
        for second in range(seconds)
    ]


def recovered(seconds: Sequence[dict[str, Any]], drop: float, bound_ms: float) -> float | None:
    """Seconds after ``drop`` from which p99 stays under the bound; None if it never does."""
    since: float | None = None
    for entry in seconds:
        if entry["second"] + 1 <= drop:
            continue
        if entry["p99_ms"] is None or entry["p99_ms"] > bound_ms:
            since = None
        elif since is None:
            since = max(0.0, entry["second"] - drop)
    return since


def offer(target: str, options: argparse.Namespace, allowed: set[int]) -> dict[str, Any]:
    """Run the calls; the JSON that the module documents."""
    staying, coming = (max(1, round(share * options.capacity)) for share in (HALF, MORE))
    drop = ALONE_SECONDS + SPREAD_SECONDS + options.seconds
    end = drop + options.after
    common = {
        "target": target,
        "chunk_ms": options.chunk_ms,
        "calls_per_connection": options.calls_per_connection,
        "seed": options.seed,
    }
    stay = Plan(calls=staying, seconds=end, window=(SPREAD_SECONDS, end), **common)
    come = Plan(calls=coming, seconds=options.seconds, window=(0.0, end - ALONE_SECONDS), **common)
    with (
        Generators(options.generators, allowed) as first,
        Generators(options.generators, allowed) as second,
    ):
        for generators in (first, second):
            generators.prepare(options.chunk_ms, options.seed)
        begin = time.monotonic() + LEAD_SECONDS
        results = first.start(stay, begin)
        more = second.start(come, begin + ALONE_SECONDS)
        for tick in track(range(round(end)), f"{staying} + {coming} calls", transient=True):
            time.sleep(max(0.0, begin + tick - time.monotonic()))
        seen = Seen()
        for result in results:
            seen.add(result.result())
        for result in more:
            seen.add(shifted(result.result(), ALONE_SECONDS))
    seconds = per_second(seen, round(end))
    phases = {
        "before": (SPREAD_SECONDS, ALONE_SECONDS),
        "overloaded": (ALONE_SECONDS + SPREAD_SECONDS, drop - SPREAD_SECONDS),
        "after": (drop, end),
    }
    pairs = list(zip(seen.due, seen.latency, strict=True))
    return {
        "capacity": options.capacity,
        "offered": staying + coming,
        "refused": seen.refused,
        "lost": staying + coming - seen.finals - seen.refused,
        "errors": seen.errors[:5],
        "bound_ms": options.bound_ms,
        **{
            f"p99_ms_{name}": quantiles_ms([took for at, took in pairs if low <= at < high])[
                "p99_ms"
            ]
            for name, (low, high) in phases.items()
        },
        "rise_second": ALONE_SECONDS,
        "drop_second": drop,
        "recovered_seconds": recovered(seconds, drop, options.bound_ms),
        "late_sends_ms_p99": round(1000 * float(np.percentile(seen.lateness or [0.0], 99)), 2),
        "per_second": seconds,
    }


def main() -> int:
    """Command line; 1 if an accepted call was lost, or the rest never recovered."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = parser.add_mutually_exclusive_group(required=True)
    known.add_argument("--capacity", type=int, help="calls that one core serves in time")
    known.add_argument("--throughput", type=Path, help="JSON of throughput.py that says so")
    parser.add_argument("--seconds", type=int, default=20, help="of 150 %% (%(default)s)")
    parser.add_argument("--after", type=int, default=15, help="of 50 %% then (%(default)s)")
    parser.add_argument(
        "--bound-ms", type=float, default=50.0, help="p99 that counts as recovered (%(default)s)"
    )
    parser.add_argument("--max-calls", type=int, help="of the server (more than are offered)")
    load_arguments(parser)
    options = parser.parse_args()
    if options.throughput:
        options.capacity = json.loads(options.throughput.read_text())["max_calls"]
    mine, theirs = cores()
    most = options.max_calls or round((HALF + MORE) * options.capacity) + 10
    with on_cores(mine), local_server(*server_flags(options, most)) as server:
        result = offer(server.target, options, theirs)
    result |= {"device": device_of(server)}
    write_json(result, options.json)
    if options.picture:
        overload_picture(result, options.picture)
    return 1 if result["lost"] or result["recovered_seconds"] is None else 0


if __name__ == "__main__":
    sys.exit(main())
