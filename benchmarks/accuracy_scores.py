"""From the outcomes of calls to figures. No I/O; every number is finite or None.

A call's prediction is the likeliest class of its final calibrated posterior, decided or not. A
call in which no speech was heard has no prediction and counts as wrong: its posterior is uniform,
and the first of several equal classes is no answer. A failed call counts nowhere but in
``failed``; a call whose label is unknown counts in no figure of that task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from accuracy_calls import TASKS, Heard, Outcome, Plan, likeliest

from streamer.rpc import voicecohort_pb2 as pb
from train.metrics import expected_calibration_error, macro_scores

SPEECH_SECONDS = (0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0)
CHILD = "child"
PAIR = (CHILD, "20s")
PAIR_CORPUS = "speechocean762"
"""The one corpus with children; see ``child_vs_20s``."""
RELIABILITY_BINS = 10
FAILURES_SHOWN = 20
_TOLERANCE = 1e-6  # seconds: the protocol rounds to nanoseconds

Pick = Callable[[Outcome], str]
Scores = dict[str, Any]


@dataclass(frozen=True)
class Classes:
    """Class names by task, as the server states them.

    Attributes:
        names: task -> class names.
        parents: for each age band the index of its age group.
    """

    names: dict[str, tuple[str, ...]]
    parents: tuple[int, ...]

    @staticmethod
    def of(started: pb.Started) -> Classes:
        """Classes of a server's first response."""
        return Classes(
            {task: tuple(getattr(started, task).labels) for task in TASKS},
            tuple(started.age_band.parents),
        )

    def truth(self, outcome: Outcome, task: str) -> str:
        """Label of a call, empty where unknown."""
        if task == "gender":
            return outcome.plan.gender
        band = outcome.plan.age_band
        if task == "age_band" or not band:
            return band
        return self.names["age_group"][self.parents[self.names["age_band"].index(band)]]

    def wrong(self, plan: Plan) -> str:
        """What is wrong with a call's labels, naming the field; empty if they are classes."""
        for field, value in (("gender", plan.gender), ("age_band", plan.age_band)):
            if value and value not in self.names[field]:
                return f"{field}: {value!r} of {plan.id} is none of {', '.join(self.names[field])}"
        return ""


def final_choice(outcome: Outcome, task: str) -> str:
    """Prediction of a finished call; empty if no speech was heard."""
    if outcome.final is None or not outcome.final.speech_time:
        return ""
    return likeliest(outcome.final, task)


def after(outcome: Outcome, seconds: float) -> Heard | None:
    """Latest posterior on at most ``seconds`` of speech, else the first; None without speech."""
    heard = [h for h in outcome.running if h.speech_seconds <= seconds + _TOLERANCE]
    return heard[-1] if heard else next(iter(outcome.running), None)


def choice_after(outcome: Outcome, task: str, seconds: float) -> str:
    """Prediction after ``seconds`` of speech, see :func:`after`; empty without speech."""
    heard = after(outcome, seconds)
    return heard.best[task] if heard else ""


def score(outcomes: Iterable[Outcome], classes: Classes, task: str, pick: Pick) -> Scores:
    """Macro scores of one task over the calls whose label is known; see ``macro_scores``."""
    names = classes.names[task]
    pairs = [(true, pick(o)) for o in outcomes if (true := classes.truth(o, task))]
    truth = np.array([names.index(true) for true, _ in pairs], np.int64)
    # No prediction is -1, which is no class and therefore wrong.
    predicted = np.array([names.index(p) if p else -1 for _, p in pairs], np.int64)
    return macro_scores(truth, predicted, names)


def final_scores(outcomes: Iterable[Outcome], classes: Classes, task: str) -> Scores:
    """:func:`score` of the final predictions."""
    return score(outcomes, classes, task, lambda o: final_choice(o, task))


def by_speech(outcomes: Sequence[Outcome], classes: Classes, task: str) -> list[Scores]:
    """One row per amount of speech.

    ``n``, ``accuracy``, ``f1`` are over calls with at least that much speech in all; ``n_all``
    and ``accuracy_all`` over every call, a shorter one counting with its final prediction.
    """
    rows = []
    for seconds in SPEECH_SECONDS:

        def pick(outcome: Outcome, seconds: float = seconds) -> str:
            return choice_after(outcome, task, seconds)

        long = [o for o in outcomes if o.final and o.final.speech_time >= seconds - _TOLERANCE]
        enough = score(long, classes, task, pick)
        everyone = score(outcomes, classes, task, pick)
        rows.append(
            {
                "speech_seconds": seconds,
                "n": enough["n"],
                "accuracy": enough["accuracy"],
                "f1": enough["f1"],
                "n_all": everyone["n"],
                "accuracy_all": everyone["accuracy"],
            }
        )
    return rows


def decided(outcomes: Sequence[Outcome], classes: Classes, task: str) -> Scores:
    """Share of calls with a known label that ended with a decision, and how many were right."""
    known = [o for o in outcomes if classes.truth(o, task)]
    labels = [(classes.truth(o, task), getattr(o.final, task).label) for o in known]
    right = [truth == label for truth, label in labels if label]
    return {
        "n": len(known),
        "decided": len(right),
        "coverage": _share(len(right), len(known)),
        "accuracy": _share(sum(right), len(right)),
    }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def calibration(
    outcomes: Sequence[Outcome], classes: Classes, task: str
) -> tuple[float | None, list[Scores]]:
    """Expected calibration error and the bins of a reliability diagram.

    Over calls with speech and a known label: a call without speech states no confidence. Bins are
    equally wide in confidence, 15 for the error and 10 for the diagram; empty ones are left out.
    """
    rows = [
        (getattr(o.final, task).confidence, final_choice(o, task) == truth)
        for o in outcomes
        if o.final and o.final.speech_time and (truth := classes.truth(o, task))
    ]
    if not rows:
        return None, []
    confidence = np.array([c for c, _ in rows], np.float64)
    right = np.array([r for _, r in rows], np.bool_)
    slot = np.minimum((confidence * RELIABILITY_BINS).astype(int), RELIABILITY_BINS - 1)
    bins = [
        {
            "confidence": float(confidence[slot == b].mean()),
            "accuracy": float(right[slot == b].mean()),
            "n": int((slot == b).sum()),
        }
        for b in sorted(set(slot.tolist()))
    ]
    return expected_calibration_error(confidence, right), bins


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
        "age_band": final_scores(inside, classes, "age_band"),
        "age_group": final_scores(inside, classes, "age_group"),
        "forced": score(inside, classes, "age_band", forced),
    }


def per_corpus(outcomes: Sequence[Outcome], classes: Classes) -> dict[str, Scores]:
    """Corpus -> ``calls`` and per task ``n``, ``accuracy``, ``f1``."""
    table: dict[str, Scores] = {}
    for corpus in sorted({o.plan.corpus for o in outcomes}):
        inside = [o for o in outcomes if o.plan.corpus == corpus]
        table[corpus] = {"calls": len(inside)}
        for task in TASKS:
            scores = final_scores(inside, classes, task)
            table[corpus][task] = {key: scores[key] for key in ("n", "accuracy", "f1")}
    return table


def per_band(outcomes: Sequence[Outcome], classes: Classes) -> dict[str, Scores]:
    """Age band -> ``calls``, recall of age group and band, and recall and ``n`` of each gender."""
    table: dict[str, Scores] = {}
    for band in classes.names["age_band"]:
        inside = [o for o in outcomes if o.plan.age_band == band]
        if not inside:
            continue
        gender = final_scores(inside, classes, "gender")["per_class"]
        nobody = {"recall": None, "n": 0}
        table[band] = {
            "calls": len(inside),
            "age_group_recall": final_scores(inside, classes, "age_group")["accuracy"],
            "age_band_recall": final_scores(inside, classes, "age_band")["accuracy"],
            "gender": {
                name: {key: gender.get(name, nobody)[key] for key in ("recall", "n")}
                for name in classes.names["gender"]
            },
        }
    return table


def assemble(outcomes: Sequence[Outcome], classes: Classes) -> Scores:
    """Everything that follows from the outcomes, as plain JSON-ready values."""
    finished = [o for o in outcomes if o.final is not None]
    failures = [o for o in outcomes if o.final is None]
    known_age = [o for o in finished if o.plan.age_band]
    calibrated = {task: calibration(finished, classes, task) for task in TASKS}
    return {
        "calls": len(outcomes),
        "failed": len(failures),
        "failures": [{"id": o.plan.id, "reason": o.reason} for o in failures[:FAILURES_SHOWN]],
        "no_speech": sum(not o.final.speech_time for o in finished if o.final),
        "seconds_of_audio": round(sum(o.seconds for o in finished), 3),
        "updates": {
            "due": sum(o.updates_due for o in finished),
            "received": sum(o.updates for o in finished),
        },
        "gender": {
            "all": final_scores(finished, classes, "gender"),
            "adult": final_scores(
                [o for o in known_age if o.plan.age_band != CHILD], classes, "gender"
            ),
            "child": final_scores(
                [o for o in known_age if o.plan.age_band == CHILD], classes, "gender"
            ),
        },
        "age_group": final_scores(finished, classes, "age_group"),
        "age_band": final_scores(finished, classes, "age_band"),
        "ece": {task: calibrated[task][0] for task in TASKS},
        "reliability": {task: calibrated[task][1] for task in TASKS},
        "decided": {task: decided(finished, classes, task) for task in TASKS},
        "by_speech": {task: by_speech(finished, classes, task) for task in TASKS},
        "per_corpus": per_corpus(finished, classes),
        "per_band": per_band(finished, classes),
        "child_vs_20s": child_vs_20s(finished, classes),
    }
