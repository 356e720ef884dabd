"""Pictures of the load benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
from matplotlib import pyplot as plt

INK, ACCENT, SOFT = "#26323d", "#c2410c", "#7d9bb8"


def _save(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    plt.savefig(path, dpi=130, bbox_inches="tight")
    plt.close()


def latency_picture(latency: Sequence[float], result: Mapping[str, Any], path: Path) -> None:
    """Histogram of latencies (given in seconds) on a logarithmic axis, p50 and p99 marked."""
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
