"""The same scores for parts of the calls: by gender and age, by corpus, by language.

A part of few people says nothing of others like them and could say something of *them*: languages
and cells with fewer than :data:`LEAST_SPEAKERS` are put together or left out, and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

from scoring.calls import TASKS, Outcome
from scoring.scores import (
    CHILD,
    Classes,
    Scores,
    brief,
    final_scores,
    people,
    recall_of,
    score,
)

LEAST_SPEAKERS = 5
"""Speakers of a language, and of a cell within a corpus, that stands by itself."""
OTHERS = "others"
NOT_GIVEN = "not given"
PAIR = (CHILD, "20s")
PAIR_CORPUS = "speechocean762"
"""The one corpus with children; see ``child_vs_20s``."""

Key = TypeVar("Key", bound=Hashable)


def _grouped(
    outcomes: Iterable[Outcome], key: Callable[[Outcome], Key]
) -> dict[Key, list[Outcome]]:
    groups: dict[Key, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(key(outcome), []).append(outcome)
    return groups


def child_vs_20s(outcomes: Sequence[Outcome], classes: Classes) -> Scores | None:
    """Children against people in their twenties inside the one corpus that has both.

    All children come from one corpus, so a model can learn the corpus instead of the age; inside
    it that does not help. ``age_band`` and ``age_group`` are the free choice among all classes;
    ``forced`` takes the likelier of the two bands. None where the corpus lacks either.
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
        "speakers": people(inside),
        "age_band": final_scores(inside, classes, "age_band"),
        "age_group": final_scores(inside, classes, "age_group"),
        "forced": score(inside, classes, "age_band", forced),
    }


def _all_tasks(inside: Sequence[Outcome], classes: Classes) -> Scores:
    """``calls``, ``speakers`` and per task what ``brief`` keeps."""
    scores = {task: brief(final_scores(inside, classes, task)) for task in TASKS}
    return {"calls": len(inside), "speakers": people(inside), **scores}


def per_corpus(outcomes: Sequence[Outcome], classes: Classes) -> dict[str, Scores]:
    """Corpus -> ``calls``, ``speakers`` and per task ``n``, accuracy, macro recall, F1."""
    groups = _grouped(outcomes, lambda o: o.plan.corpus or NOT_GIVEN)
    return {corpus: _all_tasks(groups[corpus], classes) for corpus in sorted(groups)}


def per_language(outcomes: Sequence[Outcome], classes: Classes) -> dict[str, Scores]:
    """Language -> as :func:`per_corpus`, most speakers first; small ones together under "others".

    Empty where the manifest has no such column.
    """
    named = [o for o in outcomes if o.plan.language is not None]
    groups = _grouped(named, lambda o: o.plan.language or NOT_GIVEN)
    small = [name for name, inside in groups.items() if people(inside) < LEAST_SPEAKERS]
    order = sorted(groups.keys() - set(small), key=lambda name: (-people(groups[name]), name))
    table = {name: _all_tasks(groups[name], classes) for name in order}
    if small:
        rest = [o for name in small for o in groups[name]]
        table[OTHERS] = {"languages": sorted(small), **_all_tasks(rest, classes)}
    return table


def per_band(outcomes: Sequence[Outcome], classes: Classes) -> dict[str, Scores]:
    """Age band -> counts, ``corpora``, recall of age group and band, and of each gender."""
    table: dict[str, Scores] = {}
    for band in classes.names["age_band"]:
        inside = [o for o in outcomes if o.plan.age_band == band]
        if inside:
            gender = final_scores(inside, classes, "gender")
            table[band] = {
                **_age_recalls(inside, classes),
                "corpora": sorted({o.plan.corpus or NOT_GIVEN for o in inside}),
                "gender": {name: recall_of(gender, name) for name in classes.names["gender"]},
            }
    return table


def _age_recalls(inside: Sequence[Outcome], classes: Classes) -> Scores:
    """Of calls of one age band: ``calls``, ``speakers``, recalls of its group and of itself."""
    group, band = (final_scores(inside, classes, task) for task in ("age_group", "age_band"))
    return {
        "calls": len(inside),
        "speakers": people(inside),
        "age_group_recall": group["accuracy"],
        "age_band_recall": band["accuracy"],
        "interval": {
            "age_group_recall": group["interval"]["accuracy"],
            "age_band_recall": band["interval"]["accuracy"],
        },
    }


def _cell(inside: Sequence[Outcome], classes: Classes) -> Scores:
    """As :func:`_age_recalls`, with the recall of the one gender that these calls have."""
    gender = final_scores(inside, classes, "gender")
    cell = _age_recalls(inside, classes)
    cell["interval"]["gender_recall"] = gender["interval"]["accuracy"]
    return {**cell, "gender_recall": gender["accuracy"]}


def per_cell(outcomes: Sequence[Outcome], classes: Classes) -> list[Scores]:
    """A row for each gender and age band that occur together, however few the speakers."""
    groups = _grouped(outcomes, lambda o: (o.plan.gender, o.plan.age_band))
    return [
        {"gender": gender, "age_band": band, **_cell(groups[gender, band], classes)}
        for band in classes.names["age_band"]
        for gender in classes.names["gender"]
        if (gender, band) in groups
    ]


def per_corpus_cell(outcomes: Sequence[Outcome], classes: Classes) -> Scores:
    """Gender by age band by corpus by language, where there are enough speakers.

    Returns:
        ``cells``: as :func:`per_cell`, with ``corpus`` and ``language`` (None where the manifest
        has none); ``least_speakers``; ``left_out``: cells and calls that are too small.
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
        if people(inside) < LEAST_SPEAKERS:
            small.append(len(inside))
            continue
        spoken = NOT_GIVEN if language == "" else language
        where = {"corpus": corpus or NOT_GIVEN, "language": spoken}
        cells.append({**where, "gender": gender, "age_band": band, **_cell(inside, classes)})
    left_out = {"cells": len(small), "calls": sum(small)}
    return {"least_speakers": LEAST_SPEAKERS, "cells": cells, "left_out": left_out}
