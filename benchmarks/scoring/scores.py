"""Score one task over the outcomes of calls, with intervals. No I/O; numbers are finite or None.

The prediction of a call is the likeliest class of its final calibrated posterior, decided or not.
A call in which the server found no speech has no prediction and counts as wrong: its posterior is
uniform, and the first of several equal classes is no prediction. A failed call counts only in
``failed``; a call whose label is unknown counts in no figure of that task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scoring.calls import TASKS, Outcome, RunningPrediction, likeliest
from scoring.manifest import CallPlan

from streamer.rpc import voicecohort_pb2 as pb
from train.evaluation.intervals import (
    Floats,
    by_speaker,
    confusions,
    percentiles,
    ratio,
    ratio_interval,
    resampled,
    score_intervals,
)
from train.judging.metrics import expected_calibration_error, macro_scores

SPEECH_SECONDS = (0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0)
CHILD = "child"
BRIEF = ("accuracy", "recall", "f1")
RELIABILITY_BINS = 10
ECE_BINS = 15
_TOLERANCE_SECONDS = 1e-6  # the protocol rounds to nanoseconds

Choose = Callable[[Outcome], str]
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
    """Compute macro scores of one task over the calls whose label is known, with intervals.

    Returns:
        The figures of ``macro_scores``, and ``speakers``, ``interval`` and ``confusion``: how
        often each class that occurs was taken for which; the empty name is no prediction.
    """
    names = classes.names[task]
    rows = [
        (true, choose(o), o.plan.speaker_key) for o in outcomes if (true := classes.truth(o, task))
    ]
    truth = np.array([names.index(true) for true, _, _ in rows], np.int64)
    # No prediction is -1, which is no class and therefore wrong.
    predicted = np.array([names.index(choice) if choice else -1 for _, choice, _ in rows], np.int64)
    tables = confusions(truth, predicted, [speaker for _, _, speaker in rows], len(names))
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
        name: {choice: n for choice, n in zip((*names, ""), row, strict=True) if n}
        for name, row in zip(names, total, strict=True)
        if sum(row)
    }
    return scores


def final_scores(outcomes: Iterable[Outcome], classes: Classes, task: str) -> Scores:
    """Score the final predictions, see :func:`score`."""
    return score(outcomes, classes, task, lambda o: final_choice(o, task))


def brief(scores: Scores) -> Scores:
    """Reduce scores to ``n``, ``speakers``, accuracy, macro recall and F1 with intervals."""
    kept = {key: scores[key] for key in ("n", "speakers", *BRIEF)}
    return {**kept, "interval": {key: scores["interval"][key] for key in BRIEF}}


def recall_of(scores: Scores, name: str) -> Scores:
    """Return ``recall``, ``n``, ``speakers`` and ``interval`` of one class, absent or not."""
    at = scores["per_class"].get(name)
    if at is None:
        return {"recall": None, "n": 0, "speakers": 0, "interval": None}
    plain = {key: at[key] for key in ("recall", "n", "speakers")}
    return {**plain, "interval": at["interval"]["recall"]}


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
        rows.append(
            {
                "speech_seconds": seconds,
                **of_long,
                **{f"{key}_all": value for key, value in of_all.items()},
                "interval": interval,
            }
        )
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
    return {
        "n": len(known),
        "speakers": len(whole),
        "decided": int(made.sum()),
        **{
            key: float(part.sum() / of.sum()) if of.sum() else None
            for key, (part, of) in shares.items()
        },
        "interval": {key: ratio_interval(*pair) for key, pair in shares.items()},
    }


def calibration(outcomes: Sequence[Outcome], classes: Classes, task: str) -> Scores:
    """Compare the calibrated confidence of one task with the share that is right.

    Only calls with speech and a known label count: without speech there is no confidence.

    Returns:
        ``n``, ``speakers``; ``ece``, expected calibration error over 15 bins equally wide in
        confidence (Guo et al. 2017); ``confidence``, ``accuracy`` (means) and ``overconfidence``,
        the first less the second; ``interval`` of ece and overconfidence; ``bins`` of a
        reliability diagram: 10, without the empty ones, each with the interval of its accuracy.
        Figures are None if there is no call.
    """
    counted = [o for o in outcomes if o.final and o.final.speech_time and classes.truth(o, task)]
    if not counted:
        nothing = dict.fromkeys(("ece", "confidence", "accuracy", "overconfidence"))
        interval = dict.fromkeys(("ece", "overconfidence"))
        return {"n": 0, "speakers": 0, **nothing, "interval": interval, "bins": []}
    confidence = np.array([getattr(o.final, task).confidence for o in counted], np.float64)
    right = np.array([final_choice(o, task) == classes.truth(o, task) for o in counted], np.bool_)
    speakers = [o.plan.speaker_key for o in counted]
    ece = expected_calibration_error(confidence, right, ECE_BINS)
    ece_bins = by_speaker(speakers, _binned(confidence, right, ECE_BINS))
    drawn = resampled(ece_bins)
    totals = drawn.sum(axis=1)
    gaps = np.abs(drawn[..., 1] - drawn[..., 2]).sum(axis=-1)
    shown = by_speaker(speakers, _binned(confidence, right, RELIABILITY_BINS))
    return {
        "n": len(counted),
        "speakers": len(ece_bins),
        "ece": ece,
        "confidence": float(confidence.mean()),
        "accuracy": float(right.mean()),
        "overconfidence": float(confidence.mean() - right.mean()),
        "interval": {
            "ece": _centred(ratio(gaps, drawn[..., 0].sum(axis=-1)), ece),
            "overconfidence": percentiles(ratio(totals[:, 1] - totals[:, 2], totals[:, 0])),
        },
        "bins": [_bin(shown[:, b]) for b in range(RELIABILITY_BINS) if shown[:, b, 0].any()],
    }


def _binned(confidence: Floats, right: NDArray[np.bool_], bins: int) -> Floats:
    """Put one, the confidence and whether it is right into the bin of each call: [n, bins, 3]."""
    slot = np.minimum((confidence * bins).astype(int), bins - 1)
    rows = np.zeros((len(confidence), bins, 3))
    rows[np.arange(len(slot)), slot] = np.stack([np.ones(len(slot)), confidence, right], axis=1)
    return rows


def _centred(draws: Floats, value: float) -> tuple[float, float] | None:
    """Return the interval of the draws, moved so that their mean is the value.

    A mean of absolute differences grows with noise, and a resample is noisier than the sample:
    without the shift the interval could lie above the figure that it belongs to.
    """
    found = percentiles(draws - draws.mean() + value)
    return None if found is None else (max(0.0, found[0]), found[1])


def _bin(rows: Floats) -> Scores:
    """Summarise one bin of a reliability diagram, from the counts of its speakers [speakers, 3]."""
    n, confidence, right = rows.sum(axis=0).tolist()
    return {
        "confidence": confidence / n,
        "accuracy": right / n,
        "n": int(n),
        "speakers": int((rows[:, 0] > 0).sum()),
        "interval": ratio_interval(rows[:, 2], rows[:, 0]),
    }
