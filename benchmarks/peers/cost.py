"""Measure the CPU time of a second of call, in interleaved rounds over the demo call."""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from latency import DEMO
from peers.environments import Child, Unavailable, one_line
from peers.gender import Recording
from peers.rows import PIPELINE, CostRow, System
from rich.console import Console
from rich.progress import Progress

from streamer.audio.codec import SAMPLE_RATE, Encoding, decode, encode
from streamer.audio.speech_gate import speech_of

Row = dict[str, Any]

WARM_UP_SECONDS = 6


def demo_calls(seconds: int, count: int | None = None) -> list[bytes]:
    """Return both sides of the demo call, mu-law, repeated to ``seconds``.

    With ``count`` that many calls of the same bytes, each from another point of the audio.
    """
    sides, _ = soundfile.read(DEMO, dtype="int16", always_2d=True)
    length = seconds * SAMPLE_RATE
    tiled = np.tile(sides, (-(-length // len(sides)), 1))[:length]
    calls = [encode(side.copy(), Encoding.MULAW) for side in tiled.T]
    if count is None:
        return calls
    starts = [n * length // count for n in range(count)]
    picked = [calls[n % len(calls)] for n in range(count)]
    return [call[length - s :] + call[: length - s] for call, s in zip(picked, starts, strict=True)]


def cost_form(system: System, calls: Sequence[bytes]) -> tuple[bytes, Encoding, int]:
    """Return calls as a system requires them, resampled outside its clock."""
    empty = np.zeros(0, np.int16)
    forms = [Recording("", "", call, empty).form("telephone", system) for call in calls]
    return b"".join(data for data, _, _ in forms), *forms[0][1:]


def one_round(child: Child, calls: Sequence[bytes], system: System, scratch: Path) -> Row:
    """Measure one round: ``cpu_s``, ``call_s``, ``predictions``; raises Unavailable."""
    data, encoding, rate = cost_form(system, calls)
    scratch.write_bytes(data)
    reply = child.ask(scratch, encoding, rate, len(calls))
    if reply["error"]:
        raise Unavailable(one_line(reply["error"]))
    predictions = sum(answer["predictions"] for answer in reply["answers"])
    if not predictions:
        raise Unavailable("no prediction: there is nothing to compare")
    seconds = sum(map(len, calls)) / SAMPLE_RATE
    return {"cpu_s": reply["cpu_s"], "call_s": seconds, "predictions": predictions}


def measure(rows: Sequence[CostRow], options: argparse.Namespace, console: Console) -> Row:
    """Measure the cost rows."""
    two = demo_calls(options.seconds)
    many = demo_calls(options.seconds, options.calls)
    warm = WARM_UP_SECONDS * SAMPLE_RATE
    children: dict[str, Child] = {}
    reasons: dict[str, str] = {}
    rounds: dict[str, list[Row]] = {row.key: [] for row in rows}
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "calls.raw"
        progress = stack.enter_context(Progress(console=console, transient=True))
        steps = [(turn, row) for turn in range(1 + options.rounds) for row in rows]
        for turn, row in progress.track(steps, description="systems by rounds"):
            calls = many if row.system.variant == "together" else two
            try:
                if turn == 0:
                    system, folder = row.system, options.environments
                    children[row.key] = Child(system, folder, options.model, options.core)
                    stack.callback(children[row.key].stop)
                    one_round(children[row.key], [c[:warm] for c in calls], system, scratch)
                elif row.key not in reasons:
                    found = one_round(children[row.key], calls, row.system, scratch)
                    rounds[row.key].append(found)
            except Unavailable as error:
                reasons[row.key] = str(error)
                rounds[row.key].clear()
    made = []
    for row in rows:
        version = children[row.key].version if row.key in children else None
        made.append(cost_row(row, version, rounds[row.key], reasons.get(row.key, "")))
    made = with_ratios(made)
    found = cost_findings(made)
    speech = sum(len(speech_of(decode(call, Encoding.MULAW))) for call in two)
    return {
        "rows": made,
        "findings": found,
        "complete": not found["did_not_run"],
        **{name: getattr(options, name) for name in ("seconds", "rounds", "calls")},
        "speech_share": round(speech / sum(map(len, two)), 3),
    }


def cost_row(row: CostRow, version: str | None, rounds: Sequence[Row], reason: str) -> Row:
    """Summarise the rounds of a row; without one, ``reason`` is why it did not run."""
    costs = [1000 * each["cpu_s"] / each["call_s"] for each in rounds]
    rates = [each["predictions"] / each["call_s"] for each in rounds]
    return {
        **{key: getattr(row, key) for key in ("key", "title", "group", "what")},
        "running_predictions": row.running,
        "neural": row.neural,
        "version": version,
        "cpu_ms_per_call_s": round(statistics.median(costs), 4) if costs else None,
        "cpu_ms_min": round(min(costs), 4) if costs else None,
        "cpu_ms_max": round(max(costs), 4) if costs else None,
        "predictions_per_call_s": round(rates[0], 3) if rates else None,
        "reason": None if costs else reason,
    }


def with_ratios(rows: Sequence[Row]) -> list[Row]:
    """Add ``ratio`` to every row: its cost over that of our signal path."""
    base = next((row["cpu_ms_per_call_s"] for row in rows if row["key"] == "ours"), None)

    def over_base(cost: float | None) -> float | None:
        return None if cost is None or not base else float(f"{cost / base:.3g}")

    return [row | {"ratio": over_base(row["cpu_ms_per_call_s"])} for row in rows]


def cost_findings(rows: Sequence[Mapping[str, Any]]) -> Row:
    """Find the cheapest neural peer with running predictions; the keys are documented there."""
    ran = {row["key"]: row for row in rows if row["ratio"] is not None}
    rivals = {
        key: row["ratio"]
        for key, row in ran.items()
        if row["group"] == "peer" and row["neural"] and row["running_predictions"]
    }
    best = min(rivals, key=rivals.__getitem__, default=None)
    return {
        "pipeline_ratio": ran[PIPELINE]["ratio"] if PIPELINE in ran else None,
        "next_best": best,
        "next_best_ratio": rivals[best] if best else None,
        "did_not_run": [row["key"] for row in rows if row["key"] not in ran],
    }
