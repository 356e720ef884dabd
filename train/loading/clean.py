"""Utterances as they were recorded, for a teacher: wideband, no telephone, no speech gate."""

from __future__ import annotations

from dataclasses import dataclass

from lhotse import MonoCut

from model.frontend import WIDEBAND_RATE
from train.loading.batches import Calls, Example, filled, targets_of
from train.loading.data import audio_of, utterance_of
from train.loading.sampling import generator


@dataclass(frozen=True)
class CleanSpeech(Calls):
    """Batches of cuts in, batches of clean speech at 16 kHz out; crops as for calls."""

    def example(self, cut: MonoCut, crop: float | None = None) -> Example:
        """One cut, whole or a stretch of ``crop`` seconds; raises OSError if it cannot be read."""
        utterance = utterance_of(cut)
        speech = audio_of(cut, WIDEBAND_RATE)
        if crop is not None:
            random = generator(self.seed, self.epoch, cut.id)
            speech = filled(speech, round(crop * WIDEBAND_RATE), random)
        return Example(speech, None, targets_of(utterance, self.tree))
