"""From posterior to calibrated decision: a label, or undecided."""

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
    """The decision of one task.

    Attributes:
        posterior: calibrated probability of each class, sums to 1.
        label: most likely class, or "" while undecided.
        confidence: calibrated probability of the most likely class.
        undecided: why there is no label, or None.
    """

    posterior: list[float]
    label: str
    confidence: float
    undecided: Undecided | None


def temperature_at(calibration: Calibration, seconds: float) -> float:
    """Return the temperature after ``seconds`` of speech.

    Linear between the fitted points, constant outside.
    """
    points, values = calibration.speech_seconds, calibration.temperature
    right = bisect_right(points, seconds)
    if right == 0:
        return values[0]
    if right == len(points):
        return values[-1]
    fraction = (seconds - points[right - 1]) / (points[right] - points[right - 1])
    return values[right - 1] + fraction * (values[right] - values[right - 1])


def calibrated(posterior: Sequence[float], temperature: float) -> list[float]:
    """Return ``softmax(log p / T)`` (Guo et al. 2017), computed without logarithms."""
    largest = max(posterior)
    exponent = 1.0 / temperature
    powers: list[float] = [(p / largest) ** exponent for p in posterior]
    total = sum(powers)
    return [p / total for p in powers]


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
        """Return the decisions of all tasks, in the order of ``TASKS``.

        Args:
            posteriors: the model's, of each task; None before any speech.
            speech_seconds: speech that the posteriors are based on.
            min_speech_seconds: requested by the caller; can only raise a task's own minimum.
        """
        decisions = []
        for index, (labels, min_speech, min_confidence, calibration) in enumerate(self._rules):
            if posteriors is None:
                uniform = [1.0 / len(labels)] * len(labels)
                decisions.append(Decision(uniform, "", uniform[0], Undecided.NO_SPEECH))
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
            decisions.append(Decision(posterior, label, confidence, reason))
        return tuple(decisions)
