"""Generator processes, where they and the server run, and what their calls add up to."""

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
from rich.progress import Progress

from load.calls import SPREAD_SECONDS, Plan, Seen, generate, recordings

WARM_UP_SECONDS = 2.0
"""After the last call has started, before anything is counted."""
STARTING_PER_SECOND = 100
"""Calls, unless told otherwise. How a server takes hundreds at once is what overload.py is for."""
LEAD_SECONDS = 0.3
"""Between a plan and its first call: all processes must have it by then."""
SPEED_TURNS = 2_000_000
"""Of the loop that says how fast the host is: some 50 ms."""
CPU_CLOCK = 2
"""In the clock of another process: CPUCLOCK_SCHED, in nanoseconds; /proc has ticks of 10 ms."""

Meter = Callable[[], Mapping[str, float]]


def cores(server: int = 1) -> tuple[set[int], set[int]]:
    """Cores of the server and of the generators: apart where there are enough of them."""
    every = sorted(os.sched_getaffinity(0))
    return set(every[:server]), set(every[server:]) or set(every)


@contextlib.contextmanager
def on_cores(chosen: set[int]) -> Iterator[None]:
    """Keep this thread, and the processes that it starts meanwhile, on some cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, chosen)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def family(pid: int) -> list[int]:
    """A process and its descendants."""
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
    """User and system time of a running process, all threads, and of its descendants."""
    spent = 0.0
    for member in family(pid):
        with contextlib.suppress(OSError):
            spent += time.clock_gettime(~member << 3 | CPU_CLOCK)
    return spent


def speed(chosen: set[int]) -> float:
    """Million turns of a loop of Python in a CPU second, on these cores.

    A shared host is fast for minutes and slow for minutes: costs are to be read beside this.
    """
    with on_cores(chosen):
        began = time.thread_time()
        for _ in range(SPEED_TURNS):
            pass
        return round(SPEED_TURNS / (time.thread_time() - began) / 1e6, 1)


def server_meter(pid: int, chosen: set[int]) -> dict[str, float]:
    """CPU seconds so far of a server, ``cpu``, and of anything else on each core, ``foreign``."""
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
        seen: by all processes.
        calls, seconds, chunk_ms: as asked for; ``seconds`` is what was counted.
        first: seconds from the begin until counting began.
        metered: how much each of the meter's numbers grew while it was counted.
        host_speed: see :func:`speed`, where it was measured.
    """

    seen: Seen
    calls: int
    seconds: float
    chunk_ms: int
    metered: dict[str, float]
    first: float = SPREAD_SECONDS + WARM_UP_SECONDS
    host_speed: float | None = None

    @property
    def lost(self) -> int:
        """Accepted calls, or calls that never came through, without their final prediction."""
        return self.calls - self.seen.finals - self.seen.refused

    @property
    def call_seconds(self) -> float:
        """Counted, of the calls that were not refused: those cost next to nothing."""
        return max(1, self.calls - self.seen.refused) * self.seconds

    def per_call_second(self, seconds: float) -> float:
        """CPU seconds as CPU milliseconds per second of one call that was not refused."""
        return round(1000 * seconds / self.call_seconds, 4)

    def figures(self) -> dict[str, Any]:
        """Latency, losses and what the generator itself cost, ready for JSON."""
        seen, foreign = self.seen, self.metered.get("foreign")
        window = sum(1 for at in seen.arrivals if 0 <= at - self.first < self.seconds)
        return {
            "calls": self.calls,
            "lost": self.lost,
            "refused": seen.refused,
            "errors": seen.errors[:5],
            "seconds": self.seconds,
            "chunk_ms": self.chunk_ms,
            "predictions": len(seen.arrivals),
            "predictions_per_call_s": round(window / self.call_seconds, 3),
            **quantiles_ms(seen.latency),
            "speech_share": round(seen.speech_seconds / max(seen.audio_seconds, 1e-9), 3),
            "late_sends_ms_p99": round(1000 * float(np.percentile(seen.lateness or [0.0], 99)), 2),
            "generator_cpu_ms_per_call_s": self.per_call_second(seen.cpu_seconds),
            "foreign_cpu_share": None if foreign is None else round(foreign / self.seconds, 3),
            "host_speed": self.host_speed,
        }


class Generators:
    """Processes that make calls, kept between runs. A context manager.

    Args:
        count: of processes.
        allowed: cores that they may run on.
    """

    def __init__(self, count: int = 1, allowed: set[int] | None = None) -> None:
        self._allowed = allowed or os.sched_getaffinity(0)
        spawn = multiprocessing.get_context("spawn")  # gRPC does not survive a fork
        self._processes = [
            ProcessPoolExecutor(1, spawn, initializer=_settle, initargs=(self._allowed,))
            for _ in range(count)
        ]

    def __enter__(self) -> Generators:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.shutdown(wait=True, cancel_futures=True)

    def start(self, plan: Plan, begin: float) -> list[Future[Seen]]:
        """Give each process its share of the calls; the first one starts at ``begin``."""
        count = min(len(self._processes), plan.calls)
        return [
            process.submit(
                generate, replace(plan, begin=begin, numbers=range(index, plan.calls, count))
            )
            for index, process in enumerate(self._processes[:count])
        ]

    def prepare(self, chunk_ms: int, seed: int) -> None:
        """Have every process import, and code its audio, before the clock starts."""
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
        """Calls that all live through ``seconds`` that are counted, after warming up.

        Args:
            target: HOST:PORT.
            calls: at the same time.
            seconds: that are counted, of audio and of the clock.
            chunk_ms: audio in a message.
            meter: read at begin and end of what is counted.
            calls_per_connection: gRPC channels are shared by so many.
            trunk_ms: see :class:`load.calls.Plan`.
            starting: at most so many begin in a second.
            seed: of where in the demo call each call begins.
            title: beside the progress bar; none is shown without.
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
            seen = Seen()
            for result in results:
                seen.add(result.result())
        grown = {name: after[name] - value for name, value in before.items()}
        return Outcome(seen, calls, seconds, chunk_ms, grown, first)


def quantiles_ms(latency: Sequence[float]) -> dict[str, float | None]:
    """``p50_ms`` to ``max_ms`` of seconds; None where nothing was answered."""
    names = {"p50_ms": 50, "p90_ms": 90, "p99_ms": 99, "p99_9_ms": 99.9, "max_ms": 100}
    if not latency:
        return dict.fromkeys(names)
    return {key: round(1000 * float(np.percentile(latency, q)), 2) for key, q in names.items()}


def _settle(allowed: set[int]) -> None:
    os.sched_setaffinity(0, allowed)


def _prepare(chunk_ms: int, seed: int) -> None:
    recordings(chunk_ms, seed)


def write_json(result: Mapping[str, Any], path: Path | None) -> None:
    """Print a result, and write it to ``path`` if there is one."""
    text = json.dumps(result, indent=1)
    print(text)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
