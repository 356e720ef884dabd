"""The figures of a soak, and what among them must not be."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from load.calls import Seen

from soaking.callers import Tally
from soaking.judge import Phase, growth, judged, latency_by_phase, windows

WORST_RATIO = 2.0
"""Of p99 in the mixed phase to the quiet ones."""


def result_of(
    options: argparse.Namespace,
    phases: list[Phase],
    seen: Seen,
    calls: int,
    wrong: list[str],
    tally: Tally,
    samples: list[dict[str, float]],
) -> dict[str, Any]:
    """What was seen, as figures."""
    part = judged(phases[1])
    chosen = [sample for sample in samples if part.holds(sample["at"])]
    times = [sample["at"] for sample in chosen]
    end = phases[-1].end
    return {
        "minutes": options.minutes,
        "quiet_s": options.quiet,
        "phases": [phase._asdict() for phase in phases],
        "normal": {
            "calls": calls,
            "right": seen.finals - len(wrong),
            "wrong": len(wrong),
            "lost": calls - seen.finals - seen.refused,
            "refused": seen.refused,
            "errors": [*wrong, *seen.errors][:5],
        },
        "callers": {name: dict(ends) for name, ends in tally.ends.items()},
        "unexpected": tally.unexpected[:20],
        "refused_good": tally.refused_good,
        "latency": {
            **latency_by_phase(seen.due, seen.latency, phases),
            "late_sends_ms_p99": round(1000 * float(np.percentile(seen.lateness or [0], 99)), 2),
        },
        "growth": {
            name: growth(times, [sample[name] for sample in chosen], name)
            for name in ("rss_mb", "file_descriptors")
        },
        "server_cpu_s": round(sum(sample["cpu"] for sample in samples), 1),
        "samples": samples,
        "windows": windows(seen.due, seen.latency, end),
    }


def failures(result: dict[str, Any]) -> list[str]:
    """What must not be, one line each."""
    normal = result["normal"]
    found: list[str] = []
    found += [
        f"{normal[key]} normal calls {key}: {normal['errors']}"
        for key in ("wrong", "lost", "refused")
        if normal[key]
    ]
    if result["refused_good"]:
        found.append(f"{result['refused_good']} good calls refused")
    if result["unexpected"]:
        found.append(f"ends that must not be: {result['unexpected']}")
    for name, grown in result["growth"].items():
        if grown["flat"] is False:
            found.append(f"{name} grows by {grown['per_hour']} ± {grown['error']} an hour")
    before, after = result["idle"]["before"], result["idle"]["after"]
    for name in ("file_descriptors", "threads"):
        if after[name] > before[name]:
            whose = f" ({_more(result['idle']['threads'])})" if name == "threads" else ""
            found.append(f"{name}: {before[name]} before, {after[name]} after{whose}")
    ratio = result["latency"]["p99_mixed_over_quiet"]
    if ratio is not None and ratio > WORST_RATIO:
        found.append(f"p99 is {ratio} times its quiet value")
    return found


def _more(threads: dict[str, dict[str, int]]) -> str:
    """Whose threads have become more."""
    before, after = threads["before"], threads["after"]
    return ", ".join(
        f"{name} {before.get(name, 0)} before, {count} after"
        for name, count in after.items()
        if count > before.get(name, 0)
    )
