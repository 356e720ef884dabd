"""Gaps between how women and men are recognised, and what is known of their causes."""

from __future__ import annotations

from collections.abc import Sequence

from scoring.tables import Result, plural, ranged

BOUNDS = {"female": "below", "male": "above"}
"""The side of implausible.py's bound on which a label contradicts the pitch."""
WIDE_POINTS = 5.0
"""A gap between the recall of women and of men whose cause is looked for."""


def women_and_men(result: Result) -> list[str]:
    """The largest gap between genders, and every other that is sure."""
    found = result["fairness"]
    if found is None:
        return ["The model has other than two genders: there is no one gap to report."]
    if found["largest"] is None:
        least = found["least_speakers"]
        return [f"No adult band has {least} speakers and both genders: the gap is unknown."]
    widest = found["largest"]["age_band"]
    said = []
    for band in sorted(found["bands"], key=lambda name: name != widest):
        at = found["bands"][band]
        interval = at["interval"]
        sure = interval is not None and (interval[0] > 0 or interval[1] < 0)
        if band != widest and not sure:
            continue
        first, second = found["genders"]
        less, more = (second, first) if at["gap_points"] > 0 else (first, second)
        recalls = " against ".join(
            ranged(at["gender"][name]["recall"], at["gender"][name]["interval"])
            for name in (less, more)
        )
        points = f"{abs(at['gap_points']):.1f} points"
        said.append(
            f"**{less.capitalize()}, {band}**: gender is recognised less often than of {more} "
            f"voices, {recalls} ({plural(at['speakers'], 'speaker')}). "
            + (f"The largest gap, {points}" if band == widest else f"A gap of {points}")
            + _zero(at["gap_points"], interval, sure=sure)
        )
    return said


def causes_of_gaps(result: Result, voices: Result | None) -> list[str]:
    """How much of each wide gap between genders is of labels that the pitch contradicts."""
    found = result["fairness"]
    if found is None or found["largest"] is None:
        return []
    gaps = {band: float(at["gap_points"]) for band, at in found["bands"].items()}
    wide = [band for band, gap in gaps.items() if abs(gap) > WIDE_POINTS]
    wide.sort(key=lambda band: -abs(gaps[band]))
    if voices is None:
        missing = "not looked for; `--voices` was not given."
        return [f"**Why {', '.join(wide)}**: {missing}"] if wide else []
    return [_cause(band, gaps[band], voices) for band in wide]


def _cause(band: str, points: float, voices: Result) -> str:
    if any(name not in voices["per_cell"].get(band, {}) for name in BOUNDS):
        return f"**Why {band}**: not looked for; `--voices` has no such band."
    cells = voices["per_cell"][band]
    parts, recalls, pitches = [], [], []
    for name, side in BOUNDS.items():
        at = cells[name]
        heard = at["calls"] - at["implausible_calls"]
        if heard:
            recalls.append(1 - (at["errors"] - at["implausible_errors"]) / heard)
        bound = f"{side} {voices[f'{name}_hz']:.0f} Hz"
        errors = f"{plural(at['errors'], 'error')} on {name} voices"
        many = at["implausible_speakers"]
        parts.append(
            f"{at['implausible_errors']} of {errors} from the {plural(many, 'speaker')} {bound}"
            if many
            else f"{errors}, no speaker {bound}"
        )
        if at["median_hz"] is not None:
            known = [
                cell[name]["median_hz"] or 0.0
                for cell in voices["per_cell"].values()
                if name in cell
            ]
            pitches.append(f"{name} {at['median_hz']:.0f} Hz (in all bands up to {max(known):.0f})")
    said = f"**Why {band}**, {points:+.1f} points: {'; '.join(parts)}."
    if len(recalls) == len(BOUNDS):
        gap = 100 * (recalls[0] - recalls[1])
        said += f" Without those speakers the gap, female less male, is {gap:+.1f} points."
    if pitches:
        said += f" Median pitch of the band: {', '.join(pitches)}."
    return said


def _zero(gap: float, interval: Sequence[float] | None, *, sure: bool) -> str:
    """How sure a gap is, to end a sentence with; its direction is told before."""
    if interval is None:
        return ", without an interval."
    low, high = interval if gap > 0 else (-interval[1], -interval[0])
    shown = f"; its interval, {low:.1f} to {high:.1f},"
    return f"{shown} leaves out zero." if sure else f"{shown} includes zero: it may be chance."
