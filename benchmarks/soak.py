"""Run a server under long or hostile load: does it keep anything, do correct calls notice?

    python benchmarks/soak.py --json soak.json --picture soak.png          # mixed, 45 minutes
    python benchmarks/soak.py --scenario network --minutes 10
    python benchmarks/soak.py --scenario churn --calls 10000
    python benchmarks/soak.py --scenario overload --capacity 800 --picture overload.png
    python benchmarks/soak.py --scenario old-call --minutes 120

Scenarios:
{scenarios}

mixed and network have three phases: quiet, mixed, quiet again. Normal calls run throughout, paced
in real time, open loop (see latency.py), and each final prediction is compared with that of the
same audio without a server. The mixed phase adds callers that vanish, stay half-open, never read,
flood, or send malformed requests; --rate multiplies their number. The server is a process on a core
of its own where there are two, and is sampled every second.

JSON keys, all scenarios: ``scenario``, ``failures`` (why it exits with 1), ``device``. mixed and
network: ``minutes``, ``quiet_s``, ``phases``; ``normal`` (``calls``, ``right``, ``wrong``,
``lost``, ``refused``, ``errors``); ``callers`` (by kind and status), ``unexpected`` (ends),
``refused_good`` (of correct callers); ``latency`` (by phase, ``p99_mixed_over_quiet``,
``late_sends_ms_p99`` of the generator); ``growth`` (``rss_mb`` and ``file_descriptors`` per hour of
the mixed phase without its first fifth, four minutes at least, with standard error, bound and
``flat``); ``idle`` (resources without a call, ``before`` and ``after``, and ``threads`` by name);
``calls_by_status``, ``refusals_by_status`` (the server's counts); ``server_cpu_s``; ``samples``
(each second), ``windows`` (p50 and p99 of ten seconds each). churn: ``calls``, ``lost``,
``rss_bytes_per_call`` and its standard error, ``file_descriptors_growth``, ``threads_growth``,
``calls_per_second``, ``samples``. overload: ``capacity``, ``offered``, ``refused``, ``lost``,
``bound_ms``, ``p99_ms_before``, ``p99_ms_overloaded``, ``p99_ms_after``, ``rise_second``,
``drop_second``, ``recovered_seconds`` (None: never), ``per_second``. old-call: ``minutes``,
``ratio`` of the CPU cost of an old call to that of a young one, ``cpu_ms_per_call_s`` of each,
``state_bytes``, ``memory_bytes_per_call``, ``ageing_growth_bytes``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from latency import device_name, load_arguments
from load.plots import plot_overload, plot_soak
from load.processes import write_json
from soaking.ageing import churn, churn_failures, old_call, old_call_failures
from soaking.callers import KINDS
from soaking.checks import failures
from soaking.phases import mixed, overload, overload_failures


@dataclass(frozen=True)
class Scenario:
    """One scenario: a new one is one more entry of :data:`SCENARIOS`.

    Attributes:
        about: one line for the help.
        measure: runs it; returns its JSON.
        failures: returns why a result is not good enough, one line each.
        defaults: of flags whose default depends on the scenario.
        plot: draws the result.
    """

    about: str
    measure: Callable[[argparse.Namespace], dict[str, Any]]
    failures: Callable[[dict[str, Any]], list[str]]
    defaults: Mapping[str, float] = field(default_factory=dict)
    plot: Callable[[Mapping[str, Any], Path], None] | None = None


NETWORK = ("resumed", "cut trunk", "cut off", "half-open", "idle", "slow reader")
"""Kinds of :data:`soaking.callers.KINDS` in the scenario "network"."""
SCENARIOS = {
    "mixed": Scenario(
        "all kinds of callers beside normal calls",
        partial(mixed, kinds=tuple(KINDS)),
        failures,
        {"minutes": 45.0, "calls": 40},
        plot_soak,
    ),
    "network": Scenario(
        "broken and slow connections beside normal calls",
        partial(mixed, kinds=NETWORK),
        failures,
        {"minutes": 45.0, "calls": 40},
        plot_soak,
    ),
    "churn": Scenario(
        "many short calls: growth of memory, descriptors, threads",
        churn,
        churn_failures,
        {"calls": 10_000},
    ),
    "overload": Scenario(
        "150 % of --capacity on one core, and recovery from it",
        overload,
        overload_failures,
        {"calls_per_connection": 50},
        plot_overload,
    ),
    "old-call": Scenario(
        "CPU cost and memory of a call of --minutes beside a young one",
        old_call,
        old_call_failures,
        {"minutes": 30.0, "calls": 400},
    ),
}


def arguments() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    listed = "\n".join(f"    {name:10}{one.about}" for name, one in SCENARIOS.items())
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").format(scenarios=listed),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--scenario", choices=SCENARIOS, default="mixed", help="(%(default)s)")
    add(
        "--minutes",
        type=float,
        help="in all (45: growth needs that long); age of the old call (30)",
    )
    add("--quiet", type=float, default=120.0, help="seconds before and after (%(default)s)")
    add(
        "--calls", type=int, help="normal at a time (40), churn in all (10000), old-call open (400)"
    )
    add("--call-seconds", type=float, default=20.0, help="of a normal call (%(default)s)")
    add("--warm-up", type=float, default=5.0, help="seconds before, not counted (%(default)s)")
    add("--rate", type=float, default=1.0, help="factor on other callers (%(default)s)")
    add(
        "--trunk-ms",
        type=float,
        default=0.0,
        help="churn on trunks, which send so often (0: streams)",
    )
    add(
        "--capacity", type=int, help="overload: calls that a core serves (throughput.py: max_calls)"
    )
    add("--seconds", type=int, default=20, help="of overload at 150 %% (%(default)s)")
    add("--after", type=int, default=15, help="of overload at 50 %% afterwards (%(default)s)")
    add("--bound-ms", type=float, default=50.0, help="overload: p99 when recovered (%(default)s)")
    add("--max-calls", type=int, help="overload: of the server (more than are offered)")
    add("--rounds", type=int, default=7, help="old-call: minutes compared (%(default)s)")
    load_arguments(parser)
    parser.set_defaults(provider="cpu", calls_per_connection=20)
    return parser


def main() -> int:
    """Command line; 1 if the result has failures."""
    parser = arguments()
    scenario = SCENARIOS[parser.parse_known_args()[0].scenario]
    parser.set_defaults(**scenario.defaults)
    options = parser.parse_args()
    if scenario.failures is failures and 60 * options.minutes < 3 * options.quiet:
        parser.error(f"--minutes {options.minutes:g}: no mixed phase beside --quiet")
    if scenario.measure is overload and not (options.capacity or 0) > 0:
        parser.error(f"--capacity: calls that a core serves, at least 1, got {options.capacity}")
    if scenario.measure is old_call and options.minutes < 3:
        parser.error(f"--minutes: age of the old call, at least 3, got {options.minutes:g}")
    if options.picture and scenario.plot is None:
        parser.error(f"--picture: scenario {options.scenario} has none")
    result = {"scenario": options.scenario, "device": device_name()} | scenario.measure(options)
    result["failures"] = scenario.failures(result)
    write_json(result, options.json)
    if options.picture and scenario.plot:
        scenario.plot(result, options.picture)
    for line in result["failures"]:
        print(line, file=sys.stderr)
    return 1 if result["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
