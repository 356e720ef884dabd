"""Two checkouts of the server in turns, second by second: CPU of calls on a trunk, without gRPC.

    git worktree add ../before HEAD~10
    python benchmarks/side_by_side.py --before ../before --json OUT.json

The speed of a shared host changes by the minute, which hides what a change of a few per cent does
between two runs of latency.py. Here each checkout is a process of its own, on one core, that runs
the server's event loop, engine and student on a second of audio of all calls and then waits for
its next turn, so that both meet the same minute. Nothing is paced: these are CPU times of busy
code, lower than those of a server that waits between two messages; quote ratios.

JSON keys: ``calls``, ``rounds``, ``loop`` (the event loop's thread) and ``total`` (all threads),
each with ``before`` and ``after`` (CPU-ms per call-second, medians) and ``ratio`` (median of the
rounds' own), ``device``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from latency import device_name
from load.run import cores, on_cores, write_json
from rich.progress import track

HERE = Path(__file__).resolve().parent
INSIDE = HERE / "load" / "inside.py"
WARM_UP = 2
"""Rounds that do not count."""
THREADS = ("loop", "total")


class Checkout:
    """One of the two, ready for rounds.

    Args:
        folder: of the checkout.
        calls: at the same time.
        model: student; the one that the checkout ships if it is None.

    Raises:
        FileNotFoundError: its server has no trunks, or is none.
        RuntimeError: it cannot be started.
    """

    def __init__(self, folder: Path, calls: int, model: Path | None) -> None:
        if not (folder / "streamer" / "trunk.py").is_file():
            raise FileNotFoundError(f"{folder}: has no streamer/transport/trunk.py")
        path = os.pathsep.join([str(folder.resolve()), str(HERE)])
        self._process = subprocess.Popen(  # noqa: S603 - our own file
            [sys.executable, INSIDE, str(calls), *([str(model)] if model else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": path},
        )
        if self._answer() != "ready":
            raise RuntimeError(f"{folder}: its server cannot be started")

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def round(self) -> tuple[float, float]:
        """CPU seconds of a second of audio of all calls: of the loop's thread, and of all."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        loop, total = self._answer().split()
        return float(loop), float(total)

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


def compared(before: Sequence[float], after: Sequence[float], calls: int) -> dict[str, float]:
    """Medians as CPU-ms per call-second, and the median of the ratios of each round."""
    ratios = [b / a for a, b in zip(before, after, strict=True)]
    return {
        "before": round(1000 * statistics.median(before) / calls, 4),
        "after": round(1000 * statistics.median(after) / calls, 4),
        "ratio": round(statistics.median(ratios), 3),
    }


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", type=Path, required=True, help="folder of the older checkout")
    parser.add_argument(
        "--after", type=Path, default=HERE.parent, help="folder of the newer one (this)"
    )
    parser.add_argument("--before-model", type=Path, help="student of the older (what it ships)")
    parser.add_argument("--after-model", type=Path, help="student of the newer (what it ships)")
    parser.add_argument("--calls", type=int, default=500, help="at the same time (%(default)s)")
    parser.add_argument("--rounds", type=int, default=25, help="of a second (%(default)s)")
    parser.add_argument("--json", type=Path, help="write the result there too")
    options = parser.parse_args()
    seen: list[list[tuple[float, float]]] = [[], []]
    with on_cores(cores()[0]):
        both = [
            Checkout(options.before, options.calls, options.before_model),
            Checkout(options.after, options.calls, options.after_model),
        ]
        for number in track(range(WARM_UP + options.rounds), "in turns", transient=True):
            for checkout, rounds in zip(both, seen, strict=True):
                took = checkout.round()
                if number >= WARM_UP:
                    rounds.append(took)
        for checkout in both:
            checkout.stop()
    result: dict[str, Any] = {"calls": options.calls, "rounds": options.rounds}
    for index, thread in enumerate(THREADS):
        times = [[took[index] for took in rounds] for rounds in seen]
        result[thread] = compared(times[0], times[1], options.calls)
    write_json({**result, "device": device_name()}, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
