"""Start generator processes, place them and the server on cores, and summarise the calls."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from load.generator import SPREAD_SECONDS, Observations, Plan, generate, recordings
from rich.progress import Progress

WARM_UP_SECONDS = 2.0
"""After the last call has started, before anything is counted."""
STARTING_PER_SECOND = 100
"""Default rate of call starts. The overload scenario of soak.py starts hundreds at once."""
LEAD_SECONDS = 0.3
"""Between submitting a plan and its first call: every process must have the plan by then."""
SPEED_TURNS = 2_000_000
"""Of the loop that measures how fast the host is: about 50 ms."""
CPU_CLOCK = 2
"""CPUCLOCK_SCHED: the CPU clock of another process, in nanoseconds; /proc has 10 ms ticks."""

Meter = Callable[[], Mapping[str, float]]


def cores(server: int = 1) -> tuple[set[int], set[int]]:
    """Return cores for the server and for the generators; disjoint if there are enough."""
    every = sorted(os.sched_getaffinity(0))
    return set(every[:server]), set(every[server:]) or set(every)


@contextlib.contextmanager
def on_cores(chosen: set[int]) -> Iterator[None]:
    """Keep this thread, and the processes it starts meanwhile, on the chosen cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, chosen)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def family(pid: int) -> list[int]:
    """Return the ids of a process and its descendants."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            parents.setdefault(parent, []).append(int(path.parent.name))
    found = [pid]
    for member in found:
        found += parents.get(member, [])
    return found


def cpu_seconds(pid: int) -> float:
    """Return user and system seconds of a running process and its descendants."""
    spent = 0.0
    for member in family(pid):
        with contextlib.suppress(OSError):
            spent += time.clock_gettime(~member << 3 | CPU_CLOCK)
    return spent


def speed(chosen: set[int]) -> float:
    """Return million turns of an empty Python loop per CPU second on the chosen cores.

    A shared host changes its speed by the minute: compare costs only at equal speed.
    """
    with on_cores(chosen):
        began = time.thread_time()
        for _ in range(SPEED_TURNS):
            pass
        return round(SPEED_TURNS / (time.thread_time() - began) / 1e6, 1)


def server_meter(pid: int, chosen: set[int]) -> dict[str, float]:
    """Return CPU seconds so far: ``cpu`` of a server, ``foreign`` of others per core."""
    own = cpu_seconds(pid)
    ticks = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name[:3] == "cpu" and name[3:].isdigit() and int(name[3:]) in chosen:
            user, nice, system, _, _, interrupt, soft, steal = map(int, fields[:8])
            ticks += user + nice + system + interrupt + soft + steal
    return {
        "cpu": own,
        "foreign": ticks / os.sysconf("SC_CLK_TCK") / len(chosen) - own / len(chosen),
    }


@dataclass
class Outcome:
    """One run of calls.

    Attributes:
        observed: by all processes.
        calls, seconds, chunk_ms: of the plan; ``seconds`` is the counted part.
        first: seconds from the begin until counting began.
        metered: how much each of the meter's numbers grew while it was counted.
        host_speed: see :func:`speed`, where it was measured.
    """

    observed: Observations
    calls: int
    seconds: float
    chunk_ms: int
    metered: dict[str, float]
    first: float = SPREAD_SECONDS + WARM_UP_SECONDS
    host_speed: float | None = None

    @property
    def lost(self) -> int:
        """Calls that were not refused and have no final prediction."""
        return self.calls - self.observed.finals - self.observed.refused

    @property
    def call_seconds(self) -> float:
        """Counted seconds of the calls that were not refused; a refusal costs next to nothing."""
        return max(1, self.calls - self.observed.refused) * self.seconds

    def per_call_second(self, seconds: float) -> float:
        """Convert CPU seconds to CPU milliseconds per second of a call that was not refused."""
        return round(1000 * seconds / self.call_seconds, 4)

    def figures(self) -> dict[str, Any]:
        """Return latency, losses and the cost of the generator, ready for JSON."""
        observed, foreign = self.observed, self.metered.get("foreign")
        window = sum(1 for at in observed.arrivals if 0 <= at - self.first < self.seconds)
        return {
            "calls": self.calls,
            "lost": self.lost,
            "refused": observed.refused,
            "errors": observed.errors[:5],
            "seconds": self.seconds,
            "chunk_ms": self.chunk_ms,
            "predictions": len(observed.arrivals),
            "predictions_per_call_s": round(window / self.call_seconds, 3),
            **quantiles_ms(observed.latency),
            "speech_share": round(observed.speech_seconds / max(observed.audio_seconds, 1e-9), 3),
            "late_sends_ms_p99": round(
                1000 * float(np.percentile(observed.lateness or [0.0], 99)), 2
            ),
            "generator_cpu_ms_per_call_s": self.per_call_second(observed.cpu_seconds),
            "foreign_cpu_share": None if foreign is None else round(foreign / self.seconds, 3),
            "host_speed": self.host_speed,
        }


class Generators:
    """Processes that make calls, kept between runs. A context manager.

    Args:
        count: number of processes.
        allowed: cores they may run on.
    """

    def __init__(self, count: int = 1, allowed: set[int] | None = None) -> None:
        self._allowed = allowed or os.sched_getaffinity(0)
        spawn = multiprocessing.get_context("spawn")  # gRPC does not survive a fork
        self._processes = [
            ProcessPoolExecutor(
                1, spawn, initializer=os.sched_setaffinity, initargs=(0, self._allowed)
            )
            for _ in range(count)
        ]

    def __enter__(self) -> Generators:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.shutdown(wait=True, cancel_futures=True)

    def start(self, plan: Plan, begin: float) -> list[Future[Observations]]:
        """Give each process its share of the calls; the first call starts at ``begin``."""
        count = min(len(self._processes), plan.calls)
        return [
            process.submit(
                generate, replace(plan, begin=begin, numbers=range(index, plan.calls, count))
            )
            for index, process in enumerate(self._processes[:count])
        ]

    def prepare(self, chunk_ms: int, seed: int) -> None:
        """Let every process import modules and encode audio before the clock starts."""
        for done in [p.submit(_prepare, chunk_ms, seed) for p in self._processes]:
            done.result()

    def run(
        self,
        target: str,
        calls: int,
        seconds: float,
        *,
        chunk_ms: int = 100,
        meter: Meter = dict,
        calls_per_connection: int = 50,
        trunk_ms: float = 0.0,
        starting: float = STARTING_PER_SECOND,
        seed: int = 1,
        title: str = "",
    ) -> Outcome:
        """Run calls that all last through the counted ``seconds``, after a warm-up.

        Args:
            target: HOST:PORT.
            calls: at the same time.
            seconds: counted, of audio and of the clock.
            chunk_ms: audio in a message.
            meter: read at the begin and the end of the counted part.
            calls_per_connection: see :class:`load.generator.Plan`.
            trunk_ms: see :class:`load.generator.Plan`.
            starting: most calls that start in a second.
            seed: of where in the demo call each call begins.
            title: of the progress bar; without one there is no bar.
        """
        self.prepare(chunk_ms, seed)
        spread = max(SPREAD_SECONDS, calls / starting)
        first = spread + WARM_UP_SECONDS
        window = (first, first + seconds)
        begin = time.monotonic() + LEAD_SECONDS
        plan = Plan(
            target,
            calls=calls,
            seconds=first + seconds,
            window=window,
            chunk_ms=chunk_ms,
            calls_per_connection=calls_per_connection,
            trunk_ms=trunk_ms,
            seed=seed,
            spread=spread,
        )
        results = self.start(plan, begin)
        with Progress(transient=True, disable=not title) as progress:
            bar = progress.add_task(title, total=window[1])

            def wait(until: float) -> None:
                while (left := begin + until - time.monotonic()) > 0:
                    progress.update(bar, completed=until - left)
                    time.sleep(min(left, 0.5))

            wait(window[0])
            before = meter()
            wait(window[1])
            after = meter()
            observed = Observations()
            for result in results:
                observed.add(result.result())
        grown = {name: after[name] - value for name, value in before.items()}
        return Outcome(observed, calls, seconds, chunk_ms, grown, first)


def quantiles_ms(latency: Sequence[float]) -> dict[str, float | None]:
    """Return ``p50_ms`` to ``max_ms`` of latencies in seconds; None without any."""
    names = {"p50_ms": 50, "p90_ms": 90, "p99_ms": 99, "p99_9_ms": 99.9, "max_ms": 100}
    if not latency:
        return dict.fromkeys(names)
    return {key: round(1000 * float(np.percentile(latency, q)), 2) for key, q in names.items()}


def _prepare(chunk_ms: int, seed: int) -> None:
    recordings(chunk_ms, seed)


def write_json(result: Mapping[str, Any], path: Path | None) -> None:
    """Print a result, and write it to ``path`` if there is one."""
    text = json.dumps(result, indent=1)
    print(text)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
