"""A step of the student by itself, on every device there is: what a GPU would change.

    python benchmarks/step_cost.py --json step_cost.json --picture step_cost.png
    python benchmarks/step_cost.py --rows 1 32 --rounds 9

Served are the file in 8 bits on a CPU and the one in float32 on a GPU; the latter is measured on
a CPU, too. The ways take turns in every round, with the same noise as audio and what calls
remember of a second of it. A step on a GPU counts from arrays of the host to arrays of the host.

JSON keys: ``ways``, a list with ``way``, ``model``, ``device`` and ``steps``, for each of
``rows`` (blocks in a step): ``ms`` (mean of a round, median of rounds), ``cpu_ms`` (of all
threads; a GPU is waited for awake), ``blocks_per_s``, ``difference`` (largest of any posterior
from float32 on the CPU), ``first_ms`` (of the very first step). ``rounds``, ``device``.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from latency import device_name
from load.pictures import step_picture
from load.run import write_json
from rich.progress import track

from streamer.errors import ModelFileError
from streamer.inference import cuda
from streamer.inference.metadata import Floats, Memory
from streamer.inference.model import CPU_MODEL, DEFAULT_MODEL, Student

ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
STEPS_BEFORE = 4
"""Of every call before it is measured: about a second."""
MEASURE_SECONDS = 0.1
"""A round of one way and number of rows repeats its step for at least so long, and thrice."""


class Way:
    """A file on a device, the calls it remembers, and what it took."""

    def __init__(self, name: str, path: Path, provider: str) -> None:
        self.name, self.model = name, path.name
        self.student = Student(path, provider=provider)
        self._feeds: dict[int, tuple[Floats, Any, Memory]] = {}
        self.answers: dict[int, list[Floats]] = {}
        self.first: dict[int, float] = {}
        self.took: dict[int, list[tuple[float, float]]] = {}

    def prepare(self, rows: int) -> None:
        """Calls that have been heard for a while; posteriors of the next step."""
        student, meta = self.student, self.student.metadata
        noise = np.random.default_rng(rows)
        shape = (STEPS_BEFORE + 1, rows, meta.block)
        heard = (0.05 * noise.standard_normal(shape)).astype(np.float32)
        samples = student.buffer(shape[1:], np.float32)
        valid = student.buffer((rows,), np.int64)
        state = student.buffer((rows, meta.state_size), np.float32)
        cache = student.buffer((rows, meta.cache_size), np.uint8)
        valid[:] = meta.block
        for block in heard:
            samples[:] = block
            began = time.perf_counter()
            answers, memory = student.step(samples, valid, Memory(state, cache))
            self.first.setdefault(rows, time.perf_counter() - began)
            if block is not heard[-1]:
                state[:], cache[:] = memory
        self.answers[rows] = answers
        self._feeds[rows] = samples, valid, Memory(state, cache)

    def measure(self, rows: int) -> None:
        """One round: how long a step takes, and its CPU time, on average."""
        steps, cpu, began = 0, time.process_time(), time.perf_counter()
        while steps < 3 or time.perf_counter() - began < MEASURE_SECONDS:
            self.student.step(*self._feeds[rows])
            steps += 1
        took = (time.perf_counter() - began) / steps, (time.process_time() - cpu) / steps
        self.took.setdefault(rows, []).append(took)

    def figures(self, reference: Way) -> dict[str, Any]:
        """Of the module's JSON."""
        return {
            "way": self.name,
            "model": self.model,
            "device": self.student.device,
            "steps": [self._step(rows, reference.answers[rows]) for rows in self.took],
        }

    def _step(self, rows: int, wanted: Sequence[Floats]) -> dict[str, float]:
        took, cpu = (statistics.median(column) for column in zip(*self.took[rows], strict=True))
        pairs = zip(self.answers[rows], wanted, strict=True)
        return {
            "rows": rows,
            "ms": round(1000 * took, 4),
            "cpu_ms": round(1000 * cpu, 4),
            "blocks_per_s": round(rows / took),
            "difference": float(f"{max(float(np.abs(a - b).max()) for a, b in pairs):.1e}"),
            "first_ms": round(1000 * self.first[rows], 1),
        }


def ways() -> list[Way]:
    """What can be had here; float32 on a CPU comes first."""
    found = [
        Way("CPU, float32", DEFAULT_MODEL, "cpu"),
        Way("CPU, 8 bits", CPU_MODEL, "cpu"),
    ]
    try:
        cuda.find("cuda")
    except ModelFileError as error:
        print(f"no GPU: {error}", file=sys.stderr)
    else:
        found.append(Way("GPU, float32", DEFAULT_MODEL, "cuda"))
    return found


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS, help="blocks in a step")
    parser.add_argument("--rounds", type=int, default=5, help="in turns (%(default)s)")
    parser.add_argument("--json", type=Path, help="write the result there too")
    parser.add_argument("--picture", type=Path, help="draw it there (PNG or SVG)")
    options = parser.parse_args()
    measured = ways()
    for way, rows in product(measured, options.rows):
        way.prepare(rows)
    for _ in track(range(options.rounds), "rounds"):
        for rows, way in product(options.rows, measured):
            way.measure(rows)
    gpu = measured[-1].student.device
    result = {
        "ways": [way.figures(measured[0]) for way in measured],
        "rounds": options.rounds,
        "device": device_name(gpu),
    }
    write_json(result, options.json)
    if options.picture:
        step_picture(result, options.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
