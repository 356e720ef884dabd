"""Plot the results of the load benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator

INK, ACCENT, SOFT = "#26323d", "#c2410c", "#7d9bb8"


def _save(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    plt.savefig(path, dpi=130, bbox_inches="tight")
    plt.close()


def _log_ms(axes: Axes) -> None:
    """Set a logarithmic axis of milliseconds, readable within one decade, too."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()


def plot_latency(latency: Sequence[float], result: Mapping[str, Any], path: Path) -> None:
    """Plot a histogram of latencies in seconds on a logarithmic axis, with p50 and p99."""
    milliseconds = 1000 * np.maximum(np.array(latency or [1e-3]), 1e-5)
    low, high = milliseconds.min() * 0.9, milliseconds.max() * 1.1
    _, axes = plt.subplots(figsize=(7, 3.6))
    axes.hist(milliseconds, bins=np.geomspace(low, high, 80).tolist(), color=SOFT)
    axes.set_xscale("log")
    for name, colour, side in (("p50", INK, "right"), ("p99", ACCENT, "left")):
        value = result[f"{name}_ms"]
        if value is not None:
            axes.axvline(value, color=colour)
            axes.text(
                value,
                0.97,
                f" {name} {value:g} ms ",
                color=colour,
                va="top",
                ha=side,
                transform=axes.get_xaxis_transform(),
            )
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("from the end of a chunk's audio to its prediction, ms")
    axes.set_ylabel("predictions")
    axes.set_title(
        f"{result['calls']} live calls, {result['chunk_ms']} ms chunks, "
        f"{result['lost']} lost ({result['device']})",
        fontsize=9,
        loc="left",
    )
    axes.spines[["top", "right"]].set_visible(False)
    _save(path)


PARTS = {
    "transport": "#7d9bb8",
    "decode_vad": "#a3be8c",
    "decisions": "#d8c46a",
    "batching": "#b48ead",
    "model": "#c2410c",
}
"""Parts of the server's cost with their colours, from the bottom of a bar."""
LEGIBLE = 0.2
"""CPU-ms per call-second below which a part is too thin for its figure."""


def _split_bars(axes: Axes, result: Mapping[str, Any]) -> None:
    """Draw the parts of the server's cost beside the empty servicer, on streams and trunks."""
    ways = {"streams": result, "trunks": result.get("trunks")}
    names: list[str] = []
    highest = 0.0
    for way, figures in ways.items():
        if figures is None:
            continue
        cost, height, place = figures["cpu_ms_per_call_s"], 0.0, len(names)
        for part, colour in PARTS.items():
            label = part.replace("_", " + ") if not place else None
            axes.bar(place, cost[part], bottom=height, color=colour, label=label)
            if cost[part] >= LEGIBLE:
                middle = height + cost[part] / 2
                axes.text(place, middle, f"{cost[part]:.2f}", ha="center", va="center", fontsize=7)
            height += cost[part]
        axes.text(place, height, f"{height:.2f}", ha="center", va="bottom", fontsize=8)
        empty = cost["empty_servicer"]
        axes.bar(place + 1, empty, color=INK, alpha=0.35)
        axes.text(place + 1, empty, f"{empty:.2f}", ha="center", va="bottom", fontsize=8)
        names += [f"server,\n{way}", f"empty,\n{way}"]
        highest = max(highest, height, empty)
    axes.set_xticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(0, 1.45 * highest)
    axes.legend(fontsize=7, frameon=False, loc="upper right", ncols=2)
    axes.set_title("CPU-ms per call-second at 70 % of capacity", fontsize=9, loc="left")


def _search(axes: Axes, result: Mapping[str, Any]) -> None:
    ways = {"streams": ("o", result)}
    if "trunks" in result:
        ways["trunks"] = ("s", result["trunks"])
    tried: set[int] = set()
    for way, (marker, figures) in ways.items():
        for held, colour in ((True, SOFT), (False, ACCENT)):
            steps = [s for s in figures["steps"] if s["held"] is held and s["p99_ms"]]
            label = f"{way}, {'held' if held else 'late or refused'}"
            calls = [step["calls"] for step in steps]
            axes.plot(calls, [s["p99_ms"] for s in steps], marker, color=colour, label=label)
        axes.axvline(figures["max_calls"], color=INK, linewidth=0.8)
        tried |= {figures["max_calls"], *(step["calls"] for step in figures["steps"])}
    axes.axhline(result["bound_ms"], color=INK, linewidth=0.8, linestyle="--")
    axes.set_xscale("log")
    _log_ms(axes)
    shown = sorted({min(tried), *(f["max_calls"] for _, f in ways.values())})
    axes.set_xticks(shown, [str(n) for n in shown], fontsize=8)
    most = ", ".join(f"{f['max_calls']} on {way}" for way, (_, f) in ways.items())
    axes.set_title(
        f"p99 under {result['bound_ms']:g} ms: calls, {most}",
        fontsize=9,
        loc="left",
    )
    axes.set_xlabel("calls", fontsize=8)
    axes.set_ylabel("p99, ms", fontsize=8)
    axes.legend(fontsize=7, frameon=False)


def _curve(axes: Axes, points: Sequence[Mapping[str, Any]], name: str, label: str) -> None:
    values = [point[name] for point in points]
    costs = [p["cpu_ms_per_call_s"] for p in points]
    ranges = [p["cpu_ms_per_call_s_range"] for p in points]
    spread = [
        [cost - low for cost, (low, _) in zip(costs, ranges, strict=True)],
        [high - cost for cost, (_, high) in zip(costs, ranges, strict=True)],
    ]
    axes.errorbar(values, costs, spread, fmt="o-", color=ACCENT, elinewidth=0.8, capsize=2)
    axes.set_xscale("log")
    axes.set_xticks(values, [f"{value:g}" for value in values], fontsize=8)
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel(label, fontsize=8)
    axes.set_title("CPU-ms per call-second", fontsize=9, loc="left")


def plot_throughput(result: Mapping[str, Any], path: Path) -> None:
    """Plot the search, the cost by part beside the floors, and the curves if measured."""
    names = {"calls": "calls", "chunk_ms": "chunk, ms", "workers": "workers"}
    drawn = {name: p for name in names if (p := result.get("curves", {}).get(name))}
    rows = 2 if drawn else 1
    columns = max(2, len(drawn))
    _, grid = plt.subplots(rows, columns, figsize=(4.5 * columns, 3.6 * rows), squeeze=False)
    _search(grid[0][0], result)
    _split_bars(grid[0][1], result)
    for axes, (name, points) in zip(grid[-1] if drawn else [], drawn.items(), strict=False):
        _curve(axes, points, name, names[name])
    unused = [*grid[0][2:], *(grid[1][len(drawn) :] if drawn else [])]
    for axes in unused:
        axes.set_axis_off()
    for axes in grid.flat:
        axes.spines[["top", "right"]].set_visible(False)
    plt.suptitle(f"{result['chunk_ms']} ms chunks, {result['device']}", fontsize=9)
    plt.tight_layout()
    _save(path)


def plot_overload(result: Mapping[str, Any], path: Path) -> None:
    """Plot p99, the rate of predictions, and refused and lost calls, second by second."""
    seconds = result["per_second"]
    at = [entry["second"] + 0.5 for entry in seconds]
    _, (above, middle, below) = plt.subplots(3, 1, figsize=(8, 6.5), sharex=True)
    above.plot(at, [entry["p99_ms"] or np.nan for entry in seconds], "o-", color=ACCENT, ms=3)
    above.axhline(result["bound_ms"], color=INK, linewidth=0.8, linestyle="--")
    _log_ms(above)
    above.set_title("p99 of chunks due in each second, ms", fontsize=9, loc="left")
    middle.plot(at, [entry["predictions"] for entry in seconds], "o-", color=SOFT, ms=3)
    middle.set_ylim(bottom=0)
    middle.set_title("predictions a second", fontsize=9, loc="left")
    below.bar(at, [entry["refused"] for entry in seconds], color=SOFT, label="refused")
    below.bar(at, [entry["lost"] for entry in seconds], color=ACCENT, label="lost")
    most = max(entry["refused"] + entry["lost"] for entry in seconds)
    below.set_ylim(0, max(1, 1.1 * most))
    below.set_title("calls", fontsize=9, loc="left")
    below.legend(fontsize=8, frameon=False)
    below.set_xlabel("seconds", fontsize=8)
    for axes in (above, middle, below):
        axes.axvspan(result["rise_second"], result["drop_second"], color=ACCENT, alpha=0.07)
        axes.spines[["top", "right"]].set_visible(False)
    recovered = result["recovered_seconds"]
    ending = "never recovered" if recovered is None else f"recovered after {recovered:g} s"
    plt.suptitle(
        f"{result['offered']} calls offered to a core with a capacity of {result['capacity']}: "
        f"{result['refused']} refused, {result['lost']} lost, {ending} ({result['device']})",
        fontsize=9,
    )
    plt.tight_layout()
    _save(path)


def plot_soak(result: Mapping[str, Any], path: Path) -> None:
    """Plot RSS, descriptors and threads, latency and open calls; shade the mixed phase."""
    samples, windows = result["samples"], result["windows"]
    at = [sample["at"] / 60 for sample in samples]
    _, grid = plt.subplots(4, 1, figsize=(9, 8), sharex=True)
    memory, resources, latency, calls = grid
    memory.plot(at, [sample["rss_mb"] for sample in samples], color=INK, linewidth=1)
    resources.plot(
        at, [s["file_descriptors"] for s in samples], color=INK, linewidth=1, label="files"
    )
    resources.plot(at, [s["threads"] for s in samples], color=SOFT, linewidth=1, label="threads")
    resources.legend(fontsize=8, frameon=False, loc="upper right")
    middle = [(window["second"] + 5) / 60 for window in windows]
    for name, colour in (("p99_ms", ACCENT), ("p50_ms", SOFT)):
        values = [window[name] or np.nan for window in windows]
        latency.plot(middle, values, color=colour, linewidth=1, label=name[:3])
    latency.set_yscale("log")
    latency.yaxis.set_major_formatter("{x:g}")
    latency.legend(fontsize=8, frameon=False, loc="upper right")
    calls.plot(at, [sample["calls_open"] for sample in samples], color=INK, linewidth=1)
    calls.set_ylim(bottom=0)
    calls.set_xlabel("minutes", fontsize=8)
    grown = {
        name: f"{value['per_hour']:+.2f} ± {value['error']:.2f} an hour"
        for name, value in result["growth"].items()
        if value["per_hour"] is not None
    }
    titles = (
        f"resident memory, MB ({grown.get('rss_mb', 'too short for a slope')})",
        f"file descriptors ({grown.get('file_descriptors', 'too short for a slope')}) and threads",
        f"normal calls, ms from chunk to prediction (p99 mixed over quiet: "
        f"{result['latency']['p99_mixed_over_quiet']})",
        "streams open",
    )
    for axes, title in zip(grid, titles, strict=True):
        axes.set_title(title, fontsize=9, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        for phase in result["phases"]:
            if phase["name"] == "mixed":
                axes.axvspan(phase["begin"] / 60, phase["end"] / 60, color=ACCENT, alpha=0.07)
    normal = result["normal"]
    plt.suptitle(
        f"{result['minutes']:g} minutes, {normal['calls']} normal calls: {normal['lost']} lost, "
        f"{normal['wrong']} wrong ({result['device']})",
        fontsize=9,
    )
    plt.tight_layout()
    _save(path)
