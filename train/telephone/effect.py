"""What every effect of the channel is: a frozen value that turns samples into samples."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import Enum
from pathlib import Path

import numpy as np

from streamer.audio.codec import SAMPLE_RATE, Samples

TalkerSource = Callable[[np.random.Generator, int], Samples]
"""``(random, n)`` -> int16 [n] at 8 kHz: n samples of ONE talker other than the one degraded."""
Parameter = float | int | str | bool


def samples_of(seconds: float) -> int:
    """Nearest whole number of 8 kHz samples."""
    return round(seconds * SAMPLE_RATE)


@dataclass(frozen=True)
class Effect(ABC):
    """One thing that happens to a call; its fields are what was drawn.

    Subclasses are called ``effect(samples, random)``: int16 [n] at 8 kHz in and out, the same n
    unless the class states otherwise, any n including 0. ``random`` is their only source of chance,
    and nothing is remembered from call to call.
    """

    @abstractmethod
    def __call__(self, samples: Samples, random: np.random.Generator) -> Samples:
        """Apply to int16 [n] at 8 kHz."""

    @property
    def name(self) -> str:
        """The class in snake case, for people and for records."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()

    def parameters(self) -> dict[str, Parameter]:
        """The drawn fields as JSON values; sources of audio are left out."""
        found: dict[str, Parameter] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Enum):
                found[field.name] = str(value.value)
            elif isinstance(value, Path):
                found[field.name] = value.name
            elif isinstance(value, float):
                found[field.name] = round(value, 3)
            elif not callable(value):
                found[field.name] = value
        return found

    def __str__(self) -> str:
        values = " ".join(f"{name}={value}" for name, value in self.parameters().items())
        return f"{self.name} {values}".strip()
