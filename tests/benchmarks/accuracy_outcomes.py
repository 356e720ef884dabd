"""Build outcomes of calls for the tests of the accuracy benchmark."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))  # import each other by name

from scoring.calls import TASKS, Outcome, RunningPrediction
from scoring.manifest import CallPlan
from scoring.scores import Classes

from model.labels import DEFAULT_TREE
from streamer.client import Prediction, Task

NAMES = {task: DEFAULT_TREE.classes(task) for task in TASKS}
CLASSES = Classes(NAMES, DEFAULT_TREE.parent)


def task(names, best, confidence=0.8, *, decided=True):
    rest = (1 - confidence) / (len(names) - 1)
    posterior = {name: confidence if name == best else rest for name in names}
    return Task(posterior, best if decided else "", confidence, "" if decided else "little_speech")


def prediction(gender="male", band="20s", *, speech=3.0, sequence=1, final=True, **gender_task):
    return Prediction(
        channel=0,
        sequence=sequence,
        audio_time=speech,
        speech_time=speech,
        lost_time=0.0,
        gender=task(NAMES["gender"], gender, **gender_task),
        age_group=task(NAMES["age_group"], DEFAULT_TREE.group_of(band)),
        age_band=task(NAMES["age_band"], band),
        final=final,
    )


def running(seconds, gender="male", band="20s"):
    best = {"gender": gender, "age_group": DEFAULT_TREE.group_of(band), "age_band": band}
    return RunningPrediction(seconds, best)


def outcome(
    truth,
    predicted="male",
    band="",
    predicted_band="20s",
    *,
    corpus="c",
    speaker="",
    language=None,
    updates=(),
    **kwargs,
):
    """Build a finished call with labels ``truth`` and ``band``."""
    final = prediction(predicted, predicted_band, **kwargs)
    updates = updates or (running(final.speech_time, predicted, predicted_band),)
    plan = CallPlan("u", corpus, truth, band, (), speaker, language)
    return Outcome(plan, 4.0, tuple(updates), final, "m", 3, 3)


def failed(reason="broken"):
    return Outcome(CallPlan("bad", "c", "male", "20s", ()), reason=reason)
