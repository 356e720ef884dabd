"""The result of ``peer_cost.py``: rows, ratios, a table and a picture."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from neighbours.catalogue import OURS, PIPELINE, SERVER, Peer

Row = dict[str, Any]
COLOURS = {"ours": "#0072b2", "encoder": "#56b4e9", "peer": "#d55e00", "offline": "#999999"}
"""Okabe and Ito's, told apart by colour-blind readers too."""
MEANINGS = {
    "ours": "ours",
    "encoder": "our encoder, recomputed",
    "peer": "peer with running predictions",
    "offline": "peer, one answer after the call",
}


def row(peer: Peer, version: str | None, rounds: Sequence[Mapping[str, Any]], reason: str) -> Row:
    """One row; ``rounds`` is empty and ``reason`` says why if the peer did not run."""
    costs = [1000 * each["cpu_s"] / each["call_s"] for each in rounds]
    rates = [each["predictions"] / each["call_s"] for each in rounds]
    return {
        "key": peer.key,
        "title": peer.title,
        "group": peer.group,
        "what": peer.what,
        "running_predictions": peer.running,
        "neural": peer.neural,
        "version": version,
        "cpu_ms_per_call_s": round(statistics.median(costs), 4) if costs else None,
        "cpu_ms_min": round(min(costs), 4) if costs else None,
        "cpu_ms_max": round(max(costs), 4) if costs else None,
        "predictions_per_call_s": round(rates[0], 3) if rates else None,
        "reason": None if costs else reason,
    }


def server_row(path: Path) -> Row:
    """The whole server, from a result of throughput.py: another run, beside the others.

    Raises:
        ValueError: the file has no ``cpu_ms_per_call_s.total``.
    """
    try:
        total = float(json.loads(path.read_text())["cpu_ms_per_call_s"]["total"])
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} has no cpu_ms_per_call_s.total") from error
    server = Peer(
        SERVER,
        "voicecohort, whole server",
        "",
        "gRPC server under live calls, measured by throughput.py, not in this run",
        group="ours",
    )
    once = {"cpu_s": total / 1000, "call_s": 1.0, "predictions": 0}
    return row(server, None, [once], "") | {"predictions_per_call_s": None}


def with_ratios(rows: Sequence[Row]) -> list[Row]:
    """Every row with ``ratio``: how many times what the signal path of our server costs."""
    costs = {entry["key"]: entry["cpu_ms_per_call_s"] for entry in rows}
    base = costs.get(OURS)

    def ratio(cost: float | None) -> float | None:
        return None if cost is None or not base else float(f"{cost / base:.3g}")

    return [entry | {"ratio": ratio(entry["cpu_ms_per_call_s"])} for entry in rows]


def findings(rows: Sequence[Row]) -> dict[str, Any]:
    """What the comparison is for.

    Keys: ``pipeline_ratio``, of the recompute pipeline; ``next_best`` and ``next_best_ratio``, of
    the cheapest neural peer that gives running predictions; ``did_not_run``, keys.
    """
    ran = {entry["key"]: entry for entry in rows if entry["ratio"] is not None}
    rivals = [
        entry
        for entry in ran.values()
        if entry["group"] == "peer" and entry["neural"] and entry["running_predictions"]
    ]
    best = min(rivals, key=lambda entry: float(entry["ratio"]), default=None)
    return {
        "pipeline_ratio": ran[PIPELINE]["ratio"] if PIPELINE in ran else None,
        "next_best": best["key"] if best else None,
        "next_best_ratio": best["ratio"] if best else None,
        "did_not_run": [entry["key"] for entry in rows if entry["key"] not in ran],
    }


def _cells(entry: Row) -> tuple[str, ...]:
    cost, ratio = entry["cpu_ms_per_call_s"], entry["ratio"]
    return (
        entry["title"],
        "did not run" if cost is None else f"{cost:.3g}",
        "" if ratio is None else f"{ratio:,g}",
        "yes" if entry["running_predictions"] else "no",
        entry["version"] or "",
        entry["what"] if entry["reason"] is None else f"{entry['what']}. Reason: {entry['reason']}",
    )


HEADER = ("", "CPU-ms per call-second", "times ours", "running predictions", "version", "what ran")


def markdown(result: Mapping[str, Any]) -> str:
    """The table, and under it how it was made."""
    lines = ["| " + " | ".join(HEADER) + " |", "|---|---|---|---|---|---|"]
    for entry in result["rows"]:
        cells = (cell.replace("|", "\\|") for cell in _cells(entry))
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        f"Median of {result['rounds']} interleaved rounds on one core of {result['device']}; demo "
        f"calls of {result['seconds']} s, {100 * result['speech_share']:.0f} % speech, the same "
        f"bytes for all; ours with {result['calls']} calls side by side. Random weights cost what "
        "trained ones do.",
    ]
    return "\n".join(lines) + "\n"


def picture(result: Mapping[str, Any], path: Path) -> None:
    """Bars on a logarithmic scale, cheapest on top; what did not run is named below them."""
    ran = [entry for entry in result["rows"] if entry["cpu_ms_per_call_s"] is not None]
    ran.sort(key=lambda entry: -float(entry["cpu_ms_per_call_s"]))
    with mpl.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        drawn = Figure(figsize=(9.5, 1.9 + 0.42 * len(ran)), layout="constrained")
        axes = drawn.subplots()
        costs = [float(entry["cpu_ms_per_call_s"]) for entry in ran]
        kinds = [entry["group"] if entry["running_predictions"] else "offline" for entry in ran]
        bars = axes.barh(
            [entry["title"] for entry in ran], costs, color=[COLOURS[kind] for kind in kinds]
        )
        for bar, entry, cost in zip(bars, ran, costs, strict=True):
            times = "" if entry["ratio"] is None else f"   {entry['ratio']:,g}×"  # noqa: RUF001
            middle = bar.get_y() + bar.get_height() / 2
            axes.text(cost * 1.08, middle, f"{cost:.3g} ms{times}", va="center")
        axes.set_xscale("log")
        axes.set_xlim(min([*costs, 1.0]) / 3, max([*costs, 1.0]) * 8)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel("CPU milliseconds per second of call, one core, log scale")
        axes.tick_params(axis="y", length=0)
        axes.set_title("What a call costs: ours beside what one would build instead", loc="left")
        shown = [kind for kind in MEANINGS if kind in kinds]
        patches = [mpl.patches.Patch(color=COLOURS[kind], label=MEANINGS[kind]) for kind in shown]
        drawn.legend(handles=patches, loc="outside lower center", ncols=4, frameon=False)
        missing = [entry["title"] for entry in result["rows"] if entry not in ran]
        if missing:
            axes.annotate(
                "did not run: " + "; ".join(missing),
                (0, 0),
                (0, -46),
                xycoords="axes fraction",
                textcoords="offset points",
                color="#666666",
                fontsize=9,
            )
        drawn.savefig(path, dpi=150)
