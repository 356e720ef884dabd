"""What a soak's samples and latencies say: growth with its uncertainty, p99 by phase."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from load.run import quantiles_ms

BLOCKS = 20
"""Means of so many stretches carry the slope: single seconds depend on each other."""
WARM_UP_SHARE = 0.2
"""Of the mixed phase, at its begin: allocators and pools grow to their size in it."""
WARM_UP_SECONDS = 240.0
"""At least; a shorter soak says nothing of growth."""
SURE = 2.0
"""Standard errors beyond which a slope counts as growth."""
BOUND_PER_HOUR = {"rss_mb": 4.0, "file_descriptors": 2.0}
"""Growth that is tolerated even when it can be told from none."""
RESOLUTION = 4.0
"""A standard error of more than so many bounds hides what is looked for."""
WINDOW_SECONDS = 10


class Phase(NamedTuple):
    """One part of a soak, in seconds since its begin."""

    name: str
    begin: float
    end: float

    def holds(self, at: float) -> bool:
        """Whether a moment is within."""
        return self.begin <= at < self.end


def growth(at: Sequence[float], values: Sequence[float], name: str) -> dict[str, Any]:
    """Slope of a straight line through block means, per hour, and whether it is flat.

    Args:
        at: seconds.
        values: at those times.
        name: of the values, as in :data:`BOUND_PER_HOUR`.

    Returns:
        ``per_hour``, ``error`` (standard), ``bound_per_hour`` and ``flat``: the slope cannot be
        told from zero, or it is below the bound; None if the error is beyond
        :data:`RESOLUTION` bounds, so that nothing can be said.
    """
    blocks = min(BLOCKS, len(at) // 2)
    if blocks < 4:  # too little for a slope with an error
        return {
            "per_hour": None,
            "error": None,
            "bound_per_hour": BOUND_PER_HOUR[name],
            "flat": None,
        }
    times = [float(np.mean(part)) for part in np.array_split(np.array(at), blocks)]
    means = [float(np.mean(part)) for part in np.array_split(np.array(values), blocks)]
    (slope, _), covariance = np.polyfit(times, means, 1, cov=True)
    per_hour, error = 3600 * float(slope), 3600 * float(covariance[0][0]) ** 0.5
    bound = BOUND_PER_HOUR[name]
    grows = per_hour > max(bound, SURE * error)
    return {
        "per_hour": round(per_hour, 3),
        "error": round(error, 3),
        "bound_per_hour": bound,
        "flat": None if error > RESOLUTION * bound and not grows else not grows,
    }


def judged(phase: Phase) -> Phase:
    """The part of a phase that growth is judged by."""
    warm_up = max(WARM_UP_SECONDS, WARM_UP_SHARE * (phase.end - phase.begin))
    return phase._replace(begin=phase.begin + warm_up)


def latency_by_phase(
    due: Sequence[float], latency: Sequence[float], phases: Sequence[Phase]
) -> dict[str, Any]:
    """p50 and p99 of each phase and of all quiet ones, and ``p99_mixed_over_quiet``."""
    pairs = list(zip(due, latency, strict=True))
    names = list(dict.fromkeys(phase.name for phase in phases))
    result: dict[str, Any] = {}
    for name in [*names, "quiet_together"]:
        chosen = [
            phase
            for phase in phases
            if phase.name == name or (name == "quiet_together" and phase.name != "mixed")
        ]
        times = [took for at, took in pairs if any(phase.holds(at) for phase in chosen)]
        quantiles = quantiles_ms(times)
        result[name] = {
            "predictions": len(times),
            **{key: quantiles[key] for key in ("p50_ms", "p99_ms", "max_ms")},
        }
    quiet, mixed = result["quiet_together"]["p99_ms"], result["mixed"]["p99_ms"]
    ratio = round(mixed / quiet, 3) if quiet and mixed else None
    return {**result, "p99_mixed_over_quiet": ratio}


def windows(due: Sequence[float], latency: Sequence[float], seconds: float) -> list[dict[str, Any]]:
    """p50 and p99 of chunks due in each stretch of :data:`WINDOW_SECONDS`."""
    times, took = np.array(due), np.array(latency)
    result = []
    for begin in range(0, int(seconds), WINDOW_SECONDS):
        chosen = took[(times >= begin) & (times < begin + WINDOW_SECONDS)].tolist()
        quantiles = quantiles_ms(chosen)
        result.append({"second": begin, **{key: quantiles[key] for key in ("p50_ms", "p99_ms")}})
    return result
