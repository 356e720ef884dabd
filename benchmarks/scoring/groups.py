"""Score parts of the calls: by corpus, language, age band, gender and age; the gender gap.

A part of few speakers estimates nothing about others and could reveal something about them:
languages and cells with fewer than :data:`LEAST_SPEAKERS` are merged or left out, and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

import numpy as np
from scoring.calls import TASKS, Outcome
from scoring.scores import (
    CHILD,
    Classes,
    final_choice,
    final_scores,
    score,
    speaker_count,
)

from train.evaluation.intervals import Interval, by_speaker, percentiles, ratio, resampled
from train.evaluation.speaker_scores import Scores, brief, recall_of

LEAST_SPEAKERS = 5
"""Speakers that a language, or a cell within a corpus, needs for a row of its own."""
GAP_SPEAKERS = 20
"""Speakers that an age band needs for a figure of the gender gap."""
OTHERS = "others"
NOT_GIVEN = "not given"
PAIR = (CHILD, "20s")
PAIR_CORPUS = "speechocean762"
"""The one corpus with children; see :func:`child_vs_20s`."""

Key = TypeVar("Key", bound=Hashable)


def _grouped(
    outcomes: Iterable[Outcome], key: Callable[[Outcome], Key]
) -> dict[Key, list[Outcome]]:
    groups: dict[Key, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(key(outcome), []).append(outcome)
    return groups


def _all_tasks(inside: Sequence[Outcome], classes: Classes) -> Scores:
    """Return ``calls``, ``speakers`` and brief scores of every task."""
    scores = {task: brief(final_scores(inside, classes, task)) for task in TASKS}
    return {"calls": len(inside), "speakers": speaker_count(inside), **scores}


def per_corpus(outcomes: Sequence[Outcome], classes: Classes) -> dict[str, Scores]:
    """Score each corpus: ``calls``, ``speakers`` and brief scores by task."""
    groups = _grouped(outcomes, lambda o: o.plan.corpus or NOT_GIVEN)
    return {corpus: _all_tasks(groups[corpus], classes) for corpus in sorted(groups)}


def per_language(outcomes: Sequence[Outcome], classes: Classes) -> dict[str, Scores]:
    """Score each language as :func:`per_corpus`, most speakers first; small ones as "others".

    Empty if the manifest has no such column.
    """
    named = [o for o in outcomes if o.plan.language is not None]
    groups = _grouped(named, lambda o: o.plan.language or NOT_GIVEN)
    small = [name for name, inside in groups.items() if speaker_count(inside) < LEAST_SPEAKERS]
    large = groups.keys() - set(small)
    order = sorted(large, key=lambda name: (-speaker_count(groups[name]), name))
    table = {name: _all_tasks(groups[name], classes) for name in order}
    if small:
        rest = [o for name in small for o in groups[name]]
        table[OTHERS] = {"languages": sorted(small), **_all_tasks(rest, classes)}
    return table


def _recalls(inside: Sequence[Outcome], classes: Classes, tasks: Sequence[str]) -> Scores:
    """Return ``calls``, ``speakers`` and the recalls of calls that have one label per task."""
    scores = {f"{task}_recall": final_scores(inside, classes, task) for task in tasks}
    return {
        "calls": len(inside),
        "speakers": speaker_count(inside),
        **{key: at["accuracy"] for key, at in scores.items()},
        "interval": {key: at["interval"]["accuracy"] for key, at in scores.items()},
    }


def per_band(outcomes: Sequence[Outcome], classes: Classes) -> dict[str, Scores]:
    """Score each age band: counts, ``corpora``, recall of age group, band and each gender."""
    table: dict[str, Scores] = {}
    for band in classes.names["age_band"]:
        inside = [o for o in outcomes if o.plan.age_band == band]
        if inside:
            gender = final_scores(inside, classes, "gender")
            table[band] = {
                **_recalls(inside, classes, ("age_group", "age_band")),
                "corpora": sorted({o.plan.corpus or NOT_GIVEN for o in inside}),
                "gender": {name: recall_of(gender, name) for name in classes.names["gender"]},
            }
    return table


def per_cell(outcomes: Sequence[Outcome], classes: Classes) -> list[Scores]:
    """Score each gender and age band that occur together, whatever the number of speakers."""
    groups = _grouped(outcomes, lambda o: (o.plan.gender, o.plan.age_band))
    return [
        {"gender": gender, "age_band": band, **_recalls(groups[gender, band], classes, TASKS)}
        for band in classes.names["age_band"]
        for gender in classes.names["gender"]
        if (gender, band) in groups
    ]


def per_corpus_cell(outcomes: Sequence[Outcome], classes: Classes) -> Scores:
    """Score as :func:`per_cell` by corpus and language too, if there are enough speakers.

    ``left_out`` counts the cells and calls that are too small.
    """
    known = [o for o in outcomes if o.plan.gender and o.plan.age_band]
    groups = _grouped(
        known, lambda o: (o.plan.corpus, o.plan.language, o.plan.gender, o.plan.age_band)
    )
    bands, genders = classes.names["age_band"], classes.names["gender"]
    order = sorted(groups, key=lambda k: (k[0], k[1] or "", bands.index(k[3]), genders.index(k[2])))
    cells, small = [], []
    for corpus, language, gender, band in order:
        inside = groups[corpus, language, gender, band]
        if speaker_count(inside) < LEAST_SPEAKERS:
            small.append(len(inside))
            continue
        spoken = NOT_GIVEN if language == "" else language
        where = {"corpus": corpus or NOT_GIVEN, "language": spoken}
        labels = {"gender": gender, "age_band": band}
        cells.append({**where, **labels, **_recalls(inside, classes, TASKS)})
    left_out = {"cells": len(small), "calls": sum(small)}
    return {"least_speakers": LEAST_SPEAKERS, "cells": cells, "left_out": left_out}


def child_vs_20s(outcomes: Sequence[Outcome], classes: Classes) -> Scores | None:
    """Score children against people in their twenties inside the one corpus that has both.

    All children are in one corpus, so a model can learn the corpus instead of the age; inside it
    that does not help. ``age_band`` and ``age_group`` are the free choice among all classes;
    ``forced`` takes the likelier of the two bands. None if the corpus lacks either.
    """
    inside = [o for o in outcomes if o.plan.corpus == PAIR_CORPUS and o.plan.age_band in PAIR]
    if {o.plan.age_band for o in inside} != set(PAIR):
        return None

    def forced(outcome: Outcome) -> str:
        if outcome.final is None or not outcome.final.speech_time:
            return ""
        return max(PAIR, key=outcome.final.age_band.posterior.__getitem__)

    return {
        "corpus": PAIR_CORPUS,
        "n": len(inside),
        "speakers": speaker_count(inside),
        "age_band": final_scores(inside, classes, "age_band"),
        "age_group": final_scores(inside, classes, "age_group"),
        "forced": score(inside, classes, "age_band", forced),
    }


def fairness(outcomes: Sequence[Outcome], classes: Classes) -> Scores | None:
    """Compare the recall of both genders in every adult band with enough speakers.

    ``left_out`` gives the reason by band. None if the model has not two genders.
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
        absent = [name for name in genders if all(o.plan.gender != name for o in inside)]
        speakers = speaker_count(inside)
        if speakers < GAP_SPEAKERS:
            left_out[band] = f"{speakers} speakers, needs {GAP_SPEAKERS}"
        elif absent:
            left_out[band] = f"no {absent[0]} speaker"
        else:
            scores = final_scores(inside, classes, "gender")
            recalls = {name: recall_of(scores, name) for name in genders}
            first, second = (recalls[name]["recall"] for name in genders)
            bands[band] = {
                "calls": len(inside),
                "speakers": speakers,
                "gender": recalls,
                "gap_points": 100 * (first - second),
                "interval": _gap_interval(inside, genders),
            }
    widest = max(bands, key=lambda band: abs(bands[band]["gap_points"]), default=None)
    largest = None
    if widest:
        shown = ("gap_points", "interval", "speakers")
        largest = {"age_band": widest, **{key: bands[widest][key] for key in shown}}
    made = {"genders": list(genders), "least_speakers": GAP_SPEAKERS, "bands": bands}
    return {**made, "largest": largest, "left_out": left_out}


def _gap_interval(inside: Sequence[Outcome], genders: Sequence[str]) -> Interval:
    """Return the interval of the gap in points; all speakers of the band are drawn together."""
    rows = [
        [
            [o.plan.gender == name, o.plan.gender == name == final_choice(o, "gender")]
            for name in genders
        ]
        for o in inside
    ]
    drawn = resampled(by_speaker([o.plan.speaker_key for o in inside], np.array(rows, np.float64)))
    recall = ratio(drawn[..., 1], drawn[..., 0])
    return percentiles(100 * (recall[:, 0] - recall[:, 1]))
