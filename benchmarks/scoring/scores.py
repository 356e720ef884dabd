"""Score one task over the outcomes of calls, with intervals. No I/O; numbers are finite or None.

The prediction of a call is the likeliest class of its final calibrated posterior, decided or not.
A call in which the server found no speech has no prediction and counts as wrong: its posterior is
uniform, and the first of several equal classes is no prediction. A failed call counts only in
``failed``; a call whose label is unknown counts in no figure of that task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scoring.calls import TASKS, Outcome, RunningPrediction, likeliest
from scoring.manifest import CallPlan

from streamer.rpc import voicecohort_pb2 as pb
from train.evaluation.intervals import by_speaker, ratio_interval
from train.evaluation.speaker_scores import Scores, brief, calibration, speaker_scores

SPEECH_SECONDS = (0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0)
CHILD = "child"
_TOLERANCE_SECONDS = 1e-6  # the protocol rounds to nanoseconds

Choose = Callable[[Outcome], str]


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
        """Read the classes from a server's first response."""
        return Classes(
            {task: tuple(getattr(started, task).labels) for task in TASKS},
            tuple(started.age_band.parents),
        )

    def truth(self, outcome: Outcome, task: str) -> str:
        """Return the label of a call, empty if unknown."""
        if task == "gender":
            return outcome.plan.gender
        band = outcome.plan.age_band
        if task == "age_band" or not band:
            return band
        return self.names["age_group"][self.parents[self.names["age_band"].index(band)]]

    def unknown_label(self, plan: CallPlan) -> str:
        """Describe a label that the model lacks, naming the field; empty if there is none."""
        for field, value in (("gender", plan.gender), ("age_band", plan.age_band)):
            if value and value not in self.names[field]:
                return f"{field}: {value!r} of {plan.id} is none of {', '.join(self.names[field])}"
        return ""


def speaker_count(outcomes: Iterable[Outcome]) -> int:
    """Count the speakers of these calls."""
    return len({o.plan.speaker_key for o in outcomes})


def final_choice(outcome: Outcome, task: str) -> str:
    """Return the prediction of a finished call; empty if there was no speech."""
    if outcome.final is None or not outcome.final.speech_time:
        return ""
    return likeliest(outcome.final, task)


def choice_after(outcome: Outcome, task: str, seconds: float) -> str:
    """Return the latest prediction on at most ``seconds`` of speech, else the first one.

    Empty for a call without speech.
    """
    until = seconds + _TOLERANCE_SECONDS
    early = [r for r in outcome.running if r.speech_seconds <= until]
    found: RunningPrediction | None = early[-1] if early else next(iter(outcome.running), None)
    return found.best[task] if found else ""


def score(outcomes: Iterable[Outcome], classes: Classes, task: str, choose: Choose) -> Scores:
    """Score one task over the calls whose label is known, see :func:`speaker_scores`."""
    names = classes.names[task]
    rows = [
        (true, choose(o), o.plan.speaker_key) for o in outcomes if (true := classes.truth(o, task))
    ]
    truth = np.array([names.index(true) for true, _, _ in rows], np.int64)
    # No prediction is -1, which is no class and therefore wrong.
    predicted = np.array([names.index(choice) if choice else -1 for _, choice, _ in rows], np.int64)
    return speaker_scores(truth, predicted, [speaker for _, _, speaker in rows], names)


def final_scores(outcomes: Iterable[Outcome], classes: Classes, task: str) -> Scores:
    """Score the final predictions, see :func:`score`."""
    return score(outcomes, classes, task, lambda o: final_choice(o, task))


def by_speech(outcomes: Sequence[Outcome], classes: Classes, task: str) -> list[Scores]:
    """Score the predictions after each amount of speech, one row per amount.

    Figures without ``_all`` are over calls with at least that much speech in total; those with
    ``_all`` over every call, a shorter one counting with its final prediction.
    """
    rows = []
    for seconds in SPEECH_SECONDS:

        def choose(outcome: Outcome, seconds: float = seconds) -> str:
            return choice_after(outcome, task, seconds)

        least = seconds - _TOLERANCE_SECONDS
        long = [o for o in outcomes if o.final and o.final.speech_time >= least]
        of_long = brief(score(long, classes, task, choose))
        of_all = brief(score(outcomes, classes, task, choose))
        interval = of_long.pop("interval") | {
            f"{key}_all": value for key, value in of_all.pop("interval").items()
        }
        everyone = {f"{key}_all": value for key, value in of_all.items()}
        rows.append({"speech_seconds": seconds, **of_long, **everyone, "interval": interval})
    return rows


def decided(outcomes: Sequence[Outcome], classes: Classes, task: str) -> Scores:
    """Compute the share of calls that ended with a decision, and how many were right.

    ``accuracy`` is of the decided calls, ``accuracy_all`` of the likeliest class of all calls
    whose label is known: the difference is what abstaining gains.
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
    made, right, right_all, whole = by_speaker([o.plan.speaker_key for o in known], rows).T
    shares = {
        "coverage": (made, whole),
        "accuracy": (right, made),
        "accuracy_all": (right_all, whole),
    }
    found = {
        key: float(part.sum() / of.sum()) if of.sum() else None
        for key, (part, of) in shares.items()
    }
    counts = {"n": len(known), "speakers": len(whole), "decided": int(made.sum())}
    interval = {key: ratio_interval(*pair) for key, pair in shares.items()}
    return {**counts, **found, "interval": interval}


def calibrated(outcomes: Sequence[Outcome], classes: Classes, task: str) -> Scores:
    """Compare the confidence of one task with the share that is right, see :func:`calibration`.

    Only calls with speech and a known label count: without speech there is no confidence.
    """
    counted = [o for o in outcomes if o.final and o.final.speech_time and classes.truth(o, task)]
    return calibration(
        np.array([getattr(o.final, task).confidence for o in counted], np.float64),
        np.array([final_choice(o, task) == classes.truth(o, task) for o in counted], np.bool_),
        [o.plan.speaker_key for o in counted],
    )
