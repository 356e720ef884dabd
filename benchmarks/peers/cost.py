"""Measure the CPU time of a second of call, in interleaved rounds over the demo call."""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from latency import DEMO
from peers.environments import Child, Unavailable, one_line
from peers.gender import Recording
from peers.rows import PIPELINE, PeerRow
from rich.console import Console
from rich.progress import Progress

from streamer.audio.codec import SAMPLE_RATE, Encoding, decode, encode
from streamer.audio.speech_gate import speech_of
from train.evaluation.tables import Table

Row = dict[str, Any]

CALLS = 48
"""Of our own row, side by side: they fill a step with seven blocks, as those of a server at 70 % of
its capacity do."""
WARM_UP_SECONDS = 6


def demo_calls(seconds: int, count: int = 2) -> list[bytes]:
    """Return calls of mu-law that repeat the two sides of the demo call to ``seconds``.

    Each begins at another point of the audio.
    """
    sides, _ = soundfile.read(DEMO, dtype="int16", always_2d=True)
    length = seconds * SAMPLE_RATE
    tiled = np.tile(sides, (-(-length // len(sides)), 1))[:length]
    calls = [encode(side.copy(), Encoding.MULAW) for side in tiled.T]
    starts = [0, 0] if count == 2 else [n * length // count for n in range(count)]
    return [calls[n % 2][s:] + calls[n % 2][:s] for n, s in enumerate(starts)]


def one_round(child: Child, row: PeerRow, calls: Sequence[bytes], scratch: Path) -> Row:
    """Measure a round, resampled outside its clock: ``cost``, CPU-ms per second, and ``rate``."""
    empty = np.zeros(0, np.int16)
    forms = [Recording("", "", call, empty).form("telephone", row.system) for call in calls]
    scratch.write_bytes(b"".join(data for data, _, _ in forms))
    reply = child.ask(scratch, *forms[0][1:], len(calls))
    if reply["error"]:
        raise Unavailable(one_line(reply["error"]))
    predictions = sum(answer["predictions"] for answer in reply["answers"])
    if not predictions:
        raise Unavailable("no prediction: there is nothing to compare")
    seconds = sum(map(len, calls)) / SAMPLE_RATE
    return {"cost": 1000 * reply["cpu_s"] / seconds, "rate": predictions / seconds}


def measure(rows: Sequence[PeerRow], options: argparse.Namespace, console: Console) -> Row:
    """Measure the cost rows; the JSON keys are described in ``__main__.py``."""
    two, many = demo_calls(options.seconds), demo_calls(options.seconds, CALLS)
    warm = WARM_UP_SECONDS * SAMPLE_RATE
    children: dict[str, Child] = {}
    reasons: dict[str, str] = {}
    rounds: dict[str, list[Row]] = {row.key: [] for row in rows}
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "calls.raw"
        progress = stack.enter_context(Progress(console=console, transient=True))
        steps = [(turn, row) for turn in range(1 + options.rounds) for row in rows]
        for turn, row in progress.track(steps, description="systems by rounds"):
            calls = many if row.key == "ours" else two
            if row.key in reasons:
                continue
            try:
                if not turn:
                    child = Child(row.system, options.environments, options.model, options.core)
                    children[row.key] = child
                    stack.callback(child.stop)
                    one_round(child, row, [call[:warm] for call in calls], scratch)
                else:
                    rounds[row.key].append(one_round(children[row.key], row, calls, scratch))
            except Unavailable as error:
                reasons[row.key] = str(error)
                rounds[row.key].clear()
    versions = {key: child.version for key, child in children.items()}
    made = cost_rows(rows, versions, rounds, reasons)
    found = findings(made)
    speech = sum(len(speech_of(decode(call, Encoding.MULAW))) for call in two)
    return {
        "rows": made,
        "findings": found,
        "complete": not found["did_not_run"],
        **{name: getattr(options, name) for name in ("seconds", "rounds")},
        "calls": CALLS,
        "speech_share": round(speech / sum(map(len, two)), 3),
    }


def cost_rows(
    rows: Sequence[PeerRow],
    versions: dict[str, str],
    rounds: dict[str, list[Row]],
    reasons: dict[str, str],
) -> list[Row]:
    """Summarise the rounds of every row; ``ratio`` is its cost over that of our signal path."""
    costs = {key: [each["cost"] for each in found] for key, found in rounds.items() if found}
    median = {key: round(statistics.median(found), 4) for key, found in costs.items()}
    base = median.get("ours")
    made = []
    for row in rows:
        key, ran = row.key, row.key in costs
        entry = {name: getattr(row, name) for name in ("key", "title", "what")}
        entry |= {"group": "ours" if key == "ours" else "peer", "neural": row.neural}
        entry |= {"running_predictions": row.running, "version": versions.get(key)}
        entry |= {
            "cpu_ms_per_call_s": median.get(key),
            "cpu_ms_min": round(min(costs[key]), 4) if ran else None,
            "cpu_ms_max": round(max(costs[key]), 4) if ran else None,
            "predictions_per_call_s": round(rounds[key][0]["rate"], 3) if ran else None,
            "ratio": float(f"{median[key] / base:.3g}") if ran and base else None,
            "reason": reasons.get(key),
        }
        made.append(entry)
    return made


def findings(rows: Sequence[Row]) -> Row:
    """Find the cheapest neural peer with running predictions."""
    ratio = {row["key"]: row["ratio"] for row in rows if row["ratio"] is not None}
    alike = [row for row in rows if row["neural"] and row["running_predictions"]]
    rivals = [row["key"] for row in alike if row["group"] == "peer" and row["key"] in ratio]
    best = min(rivals, key=ratio.__getitem__, default=None)
    return {
        "pipeline_ratio": ratio.get(PIPELINE),
        "next_best": best,
        "next_best_ratio": ratio[best] if best else None,
        "did_not_run": [row["key"] for row in rows if row["key"] not in ratio],
    }


def tables(result: Row) -> list[Table]:
    """Make the table of CPU time."""
    rows = [
        (
            row["title"],
            f"{row['cpu_ms_per_call_s']:.3g}",
            "" if row["ratio"] is None else f"{row['ratio']:,g}",
            "yes" if row["running_predictions"] else "no",
            row["what"],
        )
        for row in result["rows"]
        if not row["reason"]
    ]
    note = (
        f"Median of {result['rounds']} interleaved rounds on one core of {result['device']}; demo "
        f"calls of {result['seconds']} s, {result['speech_share']:.0%} speech; ours with "
        f"{result['calls']} calls side by side."
    )
    header = ("", "CPU-ms per call-second", "times ours", "running predictions", "what ran")
    return [Table("CPU time", header, rows, note)]
