"""An utterance whose audio is known to be there."""

from __future__ import annotations

from dataclasses import dataclass

from train.corpora.audio import AudioInfo
from train.corpora.utterance import Utterance

Speaker = tuple[str, str]
"""Corpus and the speaker's name in it."""


@dataclass(frozen=True, slots=True)
class Clip:
    """An utterance, its header, and where it belongs.

    Attributes:
        utterance: as the source labels it.
        audio: rate, length and channels.
        split: "train", "dev" or "test"; empty until decided.
        speaker_clips: clips of the speaker kept in this split; 0 until decided.
    """

    utterance: Utterance
    audio: AudioInfo
    split: str = ""
    speaker_clips: int = 0

    @property
    def id(self) -> str:
        """Unique over corpora: ``corpus/id``."""
        return f"{self.utterance.corpus}/{self.utterance.id}"

    @property
    def speaker(self) -> Speaker:
        """Unique over corpora."""
        return self.utterance.corpus, self.utterance.speaker

    @property
    def seconds(self) -> float:
        """Length of the audio."""
        return self.audio.frames / self.audio.rate
