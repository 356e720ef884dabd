"""CPU cost of the telephone channel: of each effect alone, and of each preset's mean.

    python benchmarks/channel_cost.py --seconds 4 --calls 40

The input is made here, harmonics in syllables with pauses, so that no corpus is needed; so are the
other talkers, whose reading is not counted. Every effect is drawn anew for each call within the
ranges of the preset "full", and its cost times its share is what it adds to the mean. Process CPU
time is measured, all threads, so another job on the machine disturbs little. Rooms are made and
libraries loaded before the clock starts: once in a process.

JSON keys: ``effects`` (name to ``cpu_ms_per_s`` and ``share`` in "full"), ``presets`` (name to
mean ``cpu_ms_per_s``), ``seconds``, ``calls``, ``device``.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from latency import device_name
from rich.console import Console
from rich.table import Table

from streamer.audio.codec import SAMPLE_RATE, Samples, to_int16
from train.telephone import (
    EFFECTS,
    PRESETS,
    ROOMS,
    ChannelSettings,
    TelephoneChannel,
    room_response,
)


def speech_like(seconds: float, random: np.random.Generator) -> Samples:
    """Harmonics of a moving pitch in syllables, a third of it pauses, a little noise."""
    t = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    pitch = random.uniform(90, 250) * (1 + 0.1 * np.sin(2 * np.pi * 0.7 * t))
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    wave = np.zeros(len(t))
    for harmonic in range(1, 16):
        wave += np.sin(harmonic * phase + random.uniform(0, 6)) / harmonic
    syllables = np.maximum(0.0, np.sin(2 * np.pi * 3.5 * t)) * (np.sin(2 * np.pi * 0.4 * t) > -0.5)
    return to_int16(2000 * wave * syllables + 10 * random.standard_normal(len(t)))


class Cost:
    """Measures channels on a fixed set of calls."""

    def __init__(self, seconds: float, calls: int) -> None:
        self._seconds = seconds * calls
        self._calls = [speech_like(seconds, np.random.default_rng(seed)) for seed in range(calls)]
        self._others = speech_like(60.0, np.random.default_rng(calls))

    def _other_talker(self, random: np.random.Generator, n: int) -> Samples:
        start = int(random.integers(len(self._others)))
        return np.resize(np.roll(self._others, -start)[:n], n)

    def of(self, settings: ChannelSettings) -> float:
        """CPU milliseconds per second of speech."""
        channel = TelephoneChannel(settings, babble=self._other_talker)
        channel(self._calls[0], np.random.default_rng(0))
        began = time.process_time()
        for seed, call in enumerate(self._calls):
            channel(call, np.random.default_rng([711, seed]))
        return 1000 * (time.process_time() - began) / self._seconds


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="of each call (%(default)s)")
    parser.add_argument("--calls", type=int, default=40, help="per effect (%(default)s)")
    parser.add_argument(
        "--preset-calls", type=int, default=400, help="per preset, whose effects vary (%(default)s)"
    )
    parser.add_argument("--json", type=Path, help="write the result there too")
    options = parser.parse_args()

    for index in range(ROOMS):
        room_response(index)
    full = ChannelSettings.full()
    few, many = (Cost(options.seconds, calls) for calls in (options.calls, options.preset_calls))
    effects = {
        name: {
            "cpu_ms_per_s": round(few.of(full.only(name)), 3),
            "share": getattr(full, f"{name}_share"),
        }
        for name in EFFECTS
    }
    presets = {name: round(many.of(settings), 3) for name, settings in PRESETS.items()}

    table = Table("effect", "CPU-ms per s", "share", "adds", title="telephone channel")
    for name, cost in effects.items():
        each, share = cost["cpu_ms_per_s"], cost["share"]
        table.add_row(name, f"{each:.3f}", f"{share:.2f}", f"{each * share:.3f}")
    table.add_section()
    for name, mean in presets.items():
        table.add_row(f'preset "{name}"', f"{mean:.3f}", "", "")
    Console().print(table)
    result = {
        "effects": effects,
        "presets": presets,
        "seconds": options.seconds,
        "calls": options.calls,
        "device": device_name(),
    }
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
