"""From the outcomes of calls to scores with intervals. No I/O; every number is finite or None.

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
from intervals import by_speaker, confusions, ratio_interval, score_intervals

from scoring.calls import TASKS, Heard, Outcome, likeliest
from scoring.plans import Plan
from streamer.rpc import voicecohort_pb2 as pb
from train.evaluation.metrics import macro_scores

SPEECH_SECONDS = (0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0)
CHILD = "child"
BRIEF = ("accuracy", "recall", "f1")
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


def people(outcomes: Iterable[Outcome]) -> int:
    """How many persons speak in these calls."""
    return len({o.plan.person for o in outcomes})


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
    """Macro scores of one task over the calls whose label is known, with their intervals.

    What ``macro_scores`` gives, and ``speakers``, ``interval`` and, under ``confusion``, how often
    each class that occurs was taken for which; no answer is the empty name.
    """
    names = classes.names[task]
    rows = [(true, pick(o), o.plan.person) for o in outcomes if (true := classes.truth(o, task))]
    truth = np.array([names.index(true) for true, _, _ in rows], np.int64)
    # No prediction is -1, which is no class and therefore wrong.
    predicted = np.array([names.index(said) if said else -1 for _, said, _ in rows], np.int64)
    tables = confusions(truth, predicted, [who for _, _, who in rows], len(names))
    found = score_intervals(tables)
    scores = {
        **macro_scores(truth, predicted, names),
        "speakers": len(tables),
        "interval": {key: getattr(found, key) for key in ("precision", "recall", "f1", "accuracy")},
    }
    for name, at in scores["per_class"].items():
        index = names.index(name)
        at["speakers"] = int((tables[:, index].sum(axis=1) > 0).sum())
        at["interval"] = {"recall": found.class_recall[index]}
    total = tables.sum(axis=0).astype(int).tolist()
    scores["confusion"] = {
        name: {said: n for said, n in zip((*names, ""), row, strict=True) if n}
        for name, row in zip(names, total, strict=True)
        if sum(row)
    }
    return scores


def final_scores(outcomes: Iterable[Outcome], classes: Classes, task: str) -> Scores:
    """:func:`score` of the final predictions."""
    return score(outcomes, classes, task, lambda o: final_choice(o, task))


def brief(scores: Scores) -> Scores:
    """``n``, ``speakers``, accuracy, macro recall and F1 with their intervals."""
    kept = {key: scores[key] for key in ("n", "speakers", *BRIEF)}
    return {**kept, "interval": {key: scores["interval"][key] for key in BRIEF}}


def recall_of(scores: Scores, name: str) -> Scores:
    """Recall of one class: ``recall``, ``n``, ``speakers``, ``interval``; also of an absent one."""
    at = scores["per_class"].get(name)
    if at is None:
        return {"recall": None, "n": 0, "speakers": 0, "interval": None}
    plain = {key: at[key] for key in ("recall", "n", "speakers")}
    return {**plain, "interval": at["interval"]["recall"]}


def by_speech(outcomes: Sequence[Outcome], classes: Classes, task: str) -> list[Scores]:
    """One row per amount of speech.

    Without ``_all`` the figures are over calls with at least that much speech in all; with it over
    every call, a shorter one counting with its final prediction.
    """
    rows = []
    for seconds in SPEECH_SECONDS:

        def pick(outcome: Outcome, seconds: float = seconds) -> str:
            return choice_after(outcome, task, seconds)

        long = [o for o in outcomes if o.final and o.final.speech_time >= seconds - _TOLERANCE]
        enough = brief(score(long, classes, task, pick))
        everyone = brief(score(outcomes, classes, task, pick))
        interval = enough.pop("interval") | {
            f"{key}_all": value for key, value in everyone.pop("interval").items()
        }
        rows.append(
            {
                "speech_seconds": seconds,
                **enough,
                **{f"{key}_all": value for key, value in everyone.items()},
                "interval": interval,
            }
        )
    return rows


def decided(outcomes: Sequence[Outcome], classes: Classes, task: str) -> Scores:
    """Share of calls with a known label that ended with a decision, and how many were right.

    ``accuracy`` is of the decided, ``accuracy_all`` of the same calls' likeliest class, decided or
    not: what abstaining gains.
    """
    known = [o for o in outcomes if classes.truth(o, task)]
    labels = [(classes.truth(o, task), getattr(o.final, task).label) for o in known]
    rows = np.array(
        [
            (bool(label), bool(label) and label == truth, final_choice(o, task) == truth, True)
            for o, (truth, label) in zip(known, labels, strict=True)
        ],
        np.float64,
    ).reshape(-1, 4)
    made, right, right_all, whole = by_speaker([o.plan.person for o in known], rows).T
    return {
        "n": len(known),
        "speakers": len(whole),
        "decided": int(made.sum()),
        "coverage": _share(made.sum(), whole.sum()),
        "accuracy": _share(right.sum(), made.sum()),
        "accuracy_all": _share(right_all.sum(), whole.sum()),
        "interval": {
            "coverage": ratio_interval(made, whole),
            "accuracy": ratio_interval(right, made),
            "accuracy_all": ratio_interval(right_all, whole),
        },
    }


def _share(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None
