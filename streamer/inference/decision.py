"""Posterior to calibrated decision, or "undecided"."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from streamer.inference.metadata import TASKS, Calibration, Metadata


class Undecided(Enum):
    """Why a task has no label."""

    NO_SPEECH = "no speech"
    LITTLE_SPEECH = "little speech"
    LOW_CONFIDENCE = "low confidence"


class Decision(NamedTuple):
    """What is known of one task.

    Attributes:
        posterior: calibrated, sums to 1.
        label: most likely class, or "" while undecided.
        confidence: calibrated probability of the most likely class.
        undecided: why there is no label, or None.
    """

    posterior: list[float]
    label: str
    confidence: float
    undecided: Undecided | None


def temperature_at(calibration: Calibration, seconds: float) -> float:
    """Temperature after ``seconds`` of speech: linear between the fitted points, flat outside."""
    points, values = calibration.speech_seconds, calibration.temperature
    right = bisect_right(points, seconds)
    if right == 0:
        return values[0]
    if right == len(points):
        return values[-1]
    share = (seconds - points[right - 1]) / (points[right] - points[right - 1])
    return values[right - 1] + share * (values[right] - values[right - 1])


def calibrated(posterior: Sequence[float], temperature: float) -> list[float]:
    """``softmax(log p / T)`` (Guo et al. 2017), without leaving probabilities."""
    top = max(posterior)
    power = 1.0 / temperature
    powered: list[float] = [(p / top) ** power for p in posterior]
    total = sum(powered)
    return [p / total for p in powered]


class Decider:
    """The decision rules of one model file."""

    def __init__(self, metadata: Metadata) -> None:
        self._rules = [
            (
                metadata.labels.of(task),
                metadata.decision[task].min_speech_seconds,
                metadata.decision[task].min_confidence,
                metadata.calibration[task],
            )
            for task in TASKS
        ]

    def decide(
        self,
        posteriors: Sequence[Sequence[float]] | None,
        speech_seconds: float,
        min_speech_seconds: float = 0.0,
    ) -> tuple[Decision, ...]:
        """Decisions of all tasks, in the order of ``TASKS``.

        Args:
            posteriors: of each task as the student gave them, or None before any speech.
            speech_seconds: that they rest on.
            min_speech_seconds: asked for by the caller; can only raise a task's own minimum.
        """
        result = []
        for index, (labels, min_speech, min_confidence, calibration) in enumerate(self._rules):
            if posteriors is None:
                even = [1.0 / len(labels)] * len(labels)
                result.append(Decision(even, "", even[0], Undecided.NO_SPEECH))
                continue
            temperature = temperature_at(calibration, speech_seconds)
            posterior = calibrated(posteriors[index], temperature)
            confidence = max(posterior)
            reason = None
            if speech_seconds < max(min_speech, min_speech_seconds):
                reason = Undecided.LITTLE_SPEECH
            elif confidence < min_confidence:
                reason = Undecided.LOW_CONFIDENCE
            label = "" if reason else labels[posterior.index(confidence)]
            result.append(Decision(posterior, label, confidence, reason))
        return tuple(result)
