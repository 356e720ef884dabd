"""Picture of a soak: memory, descriptors, latency and calls over time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from load.pictures import ACCENT, INK, SOFT, _save
from matplotlib import pyplot as plt


def soak_picture(result: Mapping[str, Any], path: Path) -> None:
    """RSS, descriptors and threads, p99 and open calls; the mixed phase is shaded."""
    samples, windows = result["samples"], result["windows"]
    at = [sample["at"] / 60 for sample in samples]
    _, grid = plt.subplots(4, 1, figsize=(9, 8), sharex=True)
    memory, held, latency, calls = grid
    memory.plot(at, [sample["rss_mb"] for sample in samples], color=INK, linewidth=1)
    held.plot(at, [s["file_descriptors"] for s in samples], color=INK, linewidth=1, label="files")
    held.plot(at, [s["threads"] for s in samples], color=SOFT, linewidth=1, label="threads")
    held.legend(fontsize=8, frameon=False, loc="upper right")
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
