"""The student in service, with all that stands on it: its engine and its rules of decision."""

from __future__ import annotations

from dataclasses import dataclass

from streamer.decision import Decider
from streamer.engine import Engine
from streamer.student import Metadata


@dataclass(frozen=True)
class ServedModel:
    """One student as calls use it; a call keeps the one that it began with.

    Attributes:
        engine: owns the student.
        decider: its calibration and rules.
    """

    engine: Engine
    decider: Decider

    @classmethod
    def of(cls, engine: Engine) -> ServedModel:
        """Everything that follows from an engine's student."""
        return cls(engine, Decider(engine.student.metadata))

    @property
    def metadata(self) -> Metadata:
        """Of the student."""
        return self.engine.student.metadata


class Models:
    """Which student new calls take.

    Args:
        current: the first.
    """

    def __init__(self, current: ServedModel) -> None:
        self.current = current
