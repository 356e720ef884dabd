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
import base64
import contextlib
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import uvloop
from latency import device_name, device_of, load_arguments, server_flags, serving
from load.generator import ENCODINGS, SPREAD_SECONDS, Observations, Plan, recordings
from load.plots import plot_overload, plot_soak
from load.processes import Generators, cores, on_cores, write_json
from rich.progress import track
from soaking.callers import KINDS, CallersPlan, Tally, run_callers
from soaking.checks import Phase, Reference, difference, failures, result_of
from soaking.connection import MOVED_CHUNKS, WIDE_RATE, chunks, stereo_chunks
from soaking.monitor import Monitor, settled, threads_by_name
from soaking.old_call import old_call, old_call_failures
from soaking.scenarios import (
    churn,
    churn_failures,
    overload,
    overload_failures,
    short_calls,
)

from streamer.codec import SAMPLE_RATE, Encoding
from streamer.local import local_server
from streamer.rpc import voicecohort_pb2 as pb

SERVER_FLAGS = ("--idle-timeout", "20")
"""Half-open, idle and unread calls must end many times in the soak."""
KEYS = '[[key]]\nid = "soak"\nsecret = "{}"\n'
LEAD_SECONDS = 1.0
"""Until all processes have their plans."""
ENDING_SECONDS = 2.0
"""For the final predictions of a round of normal calls, before the next round starts."""
SETTLE_SECONDS = 30.0
"""Within which the server must free what calls used, once all calls are over."""
ROUNDS = 2
"""Of normal calls at the same time, half a call apart, so that there is never none."""


def normal(target: str, options: argparse.Namespace) -> Plan:
    """Plan one round of normal calls."""
    return Plan(
        target,
        calls=max(1, options.calls // ROUNDS),
        seconds=options.call_seconds,
        window=(0.0, SPREAD_SECONDS + options.call_seconds + ENDING_SECONDS),
        chunk_ms=options.chunk_ms,
        calls_per_connection=options.calls_per_connection,
        seed=options.seed,
    )


def starts_of(options: argparse.Namespace, period: float, end: float) -> list[list[float]]:
    """Return when the rounds of normal calls start, for each of :data:`ROUNDS` processes."""
    last = end - SPREAD_SECONDS - options.call_seconds
    every = [[(n + first / ROUNDS) * period for n in range(int(end / period) + 1)]
             for first in range(ROUNDS)]  # fmt: skip
    return [[start for start in starts if start <= last] for starts in every]


def wrong_answers(
    observed: Observations, options: argparse.Namespace, reference: Reference
) -> list[str]:
    """Return how final predictions differ from those of the same audio without a server."""
    wrong, known = [], {}
    for recording, count, answer in observed.answers:
        if (recording, count) not in known:
            repeated = recordings(options.chunk_ms, options.seed)[recording][1]
            sent = [repeated[number % len(repeated)] for number in range(count)]
            encoding = ENCODINGS[recording % len(ENCODINGS)][1]
            known[recording, count] = reference.finals(sent, encoding, SAMPLE_RATE)[0]
        if what := difference(pb.Prediction.FromString(answer), known[recording, count]):
            wrong.append(f"recording {recording}: {what}")
    return wrong


def run_calls(
    target: str,
    options: argparse.Namespace,
    plan: CallersPlan,
    phases: list[Phase],
    allowed: set[int],
) -> tuple[Observations, int, Tally, float]:
    """Run all calls: return observations and number of normal ones, ends of others, the begin."""
    spawn = multiprocessing.get_context("spawn")  # gRPC does not survive a fork
    with (
        Generators(1, allowed) as first,
        Generators(1, allowed) as second,
        ProcessPoolExecutor(1, spawn, os.sched_setaffinity, (0, allowed)) as others,
    ):
        both = (first, second)
        prepared = others.submit(stereo_chunks)
        with ThreadPoolExecutor(len(both)) as threads:  # processes take seconds to start
            list(threads.map(lambda g: g.prepare(options.chunk_ms, options.seed), both))
        prepared.result()
        one = normal(target, options)
        if options.warm_up:
            warm = replace(one, calls=options.calls, seconds=options.warm_up)
            for future in first.start(warm, time.monotonic() + LEAD_SECONDS):
                future.result()
        begin = time.monotonic() + LEAD_SECONDS
        plan = replace(plan, begin=begin + plan.begin, end=begin + plan.end)
        tally = others.submit(run_callers, plan)
        pending: list[tuple[Future[Observations], float]] = []
        calls, end = 0, phases[-1].end
        for generators, starts in zip(both, starts_of(options, one.window[1], end), strict=True):
            for start in starts:
                calls += one.calls
                pending += [(f, start) for f in generators.start(one, begin + start)]
        for tick in track(range(round(end)), "soak", transient=True):
            time.sleep(max(0.0, begin + tick - time.monotonic()))
        observed = Observations()
        for result, start in pending:
            observed.add(result.result(), start)
        return observed, calls, tally.result(), begin


def mixed(options: argparse.Namespace) -> dict[str, Any]:
    """Run normal calls beside the callers of the scenario; return the JSON documented above."""
    end = 60.0 * options.minutes
    edges = [0.0, options.quiet, end - options.quiet, end]
    names = ("quiet", "mixed", "quiet_again")
    phases = [Phase(name, edges[n], edges[n + 1]) for n, name in enumerate(names)]
    mine, theirs = cores()
    with contextlib.ExitStack() as stack:
        model = Path(options.model) if options.model else None
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
        with on_cores(theirs):  # pools and lazy imports exist before the first sample
            uvloop.run(short_calls(server.target, range(3), options))
        pid = server.process.pid
        before, threads = settled(pid), {"before": threads_by_name(pid)}
        plan = CallersPlan(
            server.target,
            *phases[1][1:],
            SCENARIOS[options.scenario].kinds,
            options.rate,
            answers,
            options.seed,
        )
        with Monitor(pid, str(serving(server)["metrics"])) as monitor:
            observed, calls, tally, begin = run_calls(server.target, options, plan, phases, theirs)
            after = settled(pid, before, SETTLE_SECONDS)
            threads["after"] = threads_by_name(pid)
            counts = monitor.counts()
        wrong = wrong_answers(observed, options, reference)
    return result_of(
        options, phases, observed, calls, wrong, tally, monitor.samples_since(begin)
    ) | {
        "idle": {"before": before, "after": after, "threads": threads},
        **counts,
        "device": device_of(server),
    }


@dataclass(frozen=True)
class Scenario:
    """One scenario: a new one is one more entry of :data:`SCENARIOS`.

    Attributes:
        about: one line for the help.
        measure: runs it; returns its JSON.
        failures: returns why a result is not good enough, one line each.
        defaults: of flags whose default depends on the scenario.
        kinds: of callers beside normal calls, names in :data:`soaking.callers.KINDS`.
        plot: draws the result.
    """

    about: str
    measure: Callable[[argparse.Namespace], dict[str, Any]]
    failures: Callable[[dict[str, Any]], list[str]]
    defaults: Mapping[str, float] = field(default_factory=dict)
    kinds: tuple[str, ...] = ()
    plot: Callable[[Mapping[str, Any], Path], None] | None = None


NETWORK = ("resumed", "cut trunk", "cut off", "half-open", "idle", "slow reader")
SOAK: dict[str, float] = {"minutes": 45.0, "calls": 40}
SCENARIOS = {
    "mixed": Scenario(
        "all kinds of callers beside normal calls", mixed, failures, SOAK, tuple(KINDS), plot_soak
    ),
    "network": Scenario(
        "broken and slow connections beside normal calls", mixed, failures, SOAK, NETWORK, plot_soak
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
        plot=plot_overload,
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
    if scenario.kinds and 60 * options.minutes < 3 * options.quiet:
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
