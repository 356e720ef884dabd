"""The metadata of a model file, and the memory that its model has of a call."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from streamer.audio.codec import SAMPLE_RATE

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

CONTRACT = 1
"""Version of the model-file contract that this server implements."""
METADATA_KEY = "voicecohort"
TASKS = ("gender", "age_group", "age_band")

Seconds = Annotated[float, Field(ge=0)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Labels(_Frozen):
    """Class names by task; ``parent`` is the index of each age band's age group."""

    gender: tuple[str, ...] = Field(min_length=2)
    age_group: tuple[str, ...] = Field(min_length=2)
    age_band: tuple[str, ...] = Field(min_length=2)
    parent: tuple[int, ...]

    @model_validator(mode="after")
    def _tree_fits(self) -> Labels:
        if len(self.parent) != len(self.age_band):
            raise ValueError(f"{len(self.parent)} parents for {len(self.age_band)} age bands")
        if any(not 0 <= index < len(self.age_group) for index in self.parent):
            raise ValueError(f"parents {self.parent} point outside the age groups")
        return self

    def of(self, task: str) -> tuple[str, ...]:
        """Return the class names of one of :data:`TASKS`."""
        names: tuple[str, ...] = getattr(self, task)
        return names


class Calibration(_Frozen):
    """Temperature of one task as a function of speech, interpolated linearly."""

    speech_seconds: tuple[Seconds, ...] = Field(min_length=1)
    temperature: tuple[Annotated[float, Field(gt=0)], ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _same_length(self) -> Calibration:
        if len(self.speech_seconds) != len(self.temperature):
            raise ValueError("speech_seconds and temperature differ in length")
        if list(self.speech_seconds) != sorted(self.speech_seconds):
            raise ValueError("speech_seconds must rise")
        return self


class DecisionRule(_Frozen):
    """Speech (seconds) and calibrated probability (0 to 1) from which a task is decided."""

    min_speech_seconds: Seconds
    min_confidence: float = Field(ge=0, le=1)


class Metadata(_Frozen):
    """The JSON object under :data:`METADATA_KEY` in the file."""

    contract: Literal[1]
    model_id: str = Field(pattern=r"^[\w.+-]{1,64}$")
    sample_rate: Literal[8000]
    block: int = Field(gt=0, le=SAMPLE_RATE)
    state_size: int = Field(gt=0)
    cache_size: int = Field(0, ge=0)
    labels: Labels
    calibration: dict[str, Calibration]
    decision: dict[str, DecisionRule]
    provenance: dict[str, Any] = {}

    @model_validator(mode="after")
    def _every_task(self) -> Metadata:
        for name in ("calibration", "decision"):
            missing = [task for task in TASKS if task not in getattr(self, name)]
            if missing:
                raise ValueError(f"{name} lacks {missing}")
        return self

    @property
    def memory_bytes(self) -> int:
        """Size of the memory of one channel, in bytes."""
        return 4 * self.state_size + self.cache_size

    def fresh(self, *calls: int) -> Memory:
        """Return the memory of new calls: of one, or of ``calls`` with a first axis."""
        return Memory(
            np.zeros((*calls, self.state_size), np.float32),
            np.zeros((*calls, self.cache_size), np.uint8),
        )

    @property
    def block_seconds(self) -> float:
        """Duration of a block: speech between two posteriors of a call."""
        return self.block / self.sample_rate


class Memory(NamedTuple):
    """What the model carries from block to block, of B streams, or of one without the first axis.

    Attributes:
        state: float32 [B, D].
        cache: uint8 [B, C], past frames that convolutions read again; C is 0 for a model without.
    """

    state: Floats
    cache: Bytes

    def copy(self) -> Memory:
        """Return a copy with arrays of its own."""
        return Memory(self.state.copy(), self.cache.copy())
