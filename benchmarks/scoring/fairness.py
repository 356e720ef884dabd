"""Are women and men recognised alike? Recall of gender on telephone speech, per adult age band."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from intervals import Interval, by_speaker, percentiles, ratio, resampled

from scoring.calls import Outcome
from scoring.scores import CHILD, Classes, Scores, final_choice, final_scores, people, recall_of

FAIR_SPEAKERS = 20
"""Speakers that an age band needs."""


def fairness(outcomes: Sequence[Outcome], classes: Classes) -> Scores | None:
    """Recall of either gender in every adult band with enough speakers, and the largest gap.

    Returns:
        ``genders``, both names; ``least_speakers``; ``bands`` by name: ``calls``, ``speakers``,
        ``gender`` (as ``recall_of`` gives it), ``gap_points``, recall of the first gender less
        that of the second in percentage points, and its ``interval``; ``largest``: the band whose
        gap is widest, or None; ``left_out``: band -> why. None for a model of other than two
        genders, in which there is no one gap.
    """
    genders = classes.names["gender"]
    if len(genders) != 2:
        return None
    bands: dict[str, Scores] = {}
    left_out: dict[str, str] = {}
    for band in classes.names["age_band"]:
        inside = [o for o in outcomes if o.plan.age_band == band and o.plan.gender]
        if band == CHILD or not inside:
            continue
        heard = {name: [o for o in inside if o.plan.gender == name] for name in genders}
        nobody = [name for name in genders if not heard[name]]
        if people(inside) < FAIR_SPEAKERS:
            left_out[band] = f"{people(inside)} speakers, needs {FAIR_SPEAKERS}"
        elif nobody:
            left_out[band] = f"no {nobody[0]} speaker"
        else:
            scores = final_scores(inside, classes, "gender")
            recalls = {name: recall_of(scores, name) for name in genders}
            first, second = (recalls[name]["recall"] for name in genders)
            bands[band] = {
                "calls": len(inside),
                "speakers": people(inside),
                "gender": recalls,
                "gap_points": 100 * (first - second),
                "interval": _gap_interval(inside, genders),
            }
    widest = max(bands, key=lambda band: abs(bands[band]["gap_points"]), default=None)
    return {
        "genders": list(genders),
        "least_speakers": FAIR_SPEAKERS,
        "bands": bands,
        "largest": widest
        and {
            "age_band": widest,
            **{key: bands[widest][key] for key in ("gap_points", "interval", "speakers")},
        },
        "left_out": left_out,
    }


def _gap_interval(inside: Sequence[Outcome], genders: Sequence[str]) -> Interval:
    """Interval of the gap in points; all speakers of the band are drawn together."""
    rows = [
        [
            [o.plan.gender == name, o.plan.gender == name == final_choice(o, "gender")]
            for name in genders
        ]
        for o in inside
    ]
    drawn = resampled(by_speaker([o.plan.person for o in inside], np.array(rows, np.float64)))
    recall = ratio(drawn[..., 1], drawn[..., 0])
    return percentiles(100 * (recall[:, 0] - recall[:, 1]))
