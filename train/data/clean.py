"""Utterances as they were recorded, for a teacher: wideband, no telephone, no speech gate."""

from __future__ import annotations

from dataclasses import dataclass

from lhotse import MonoCut

from model.frontend import WIDEBAND_RATE
from train.corpora.utterance import CALL
from train.data.batching import Example, TelephoneDataset, filled, targets_of
from train.data.dataset import audio_of, utterance_of
from train.data.sampling import generator


@dataclass(frozen=True)
class CleanSpeech(TelephoneDataset):
    """Batches of cuts in, batches of clean speech at 16 kHz out; crops as for calls."""

    def example(self, cut: MonoCut, crop: float | None = None) -> Example:
        """One cut, whole or a stretch of ``crop`` seconds.

        Raises:
            OSError: its audio cannot be read.
            ValueError: it is a finished call of train.simulate_calls, or a label is not in the
                tree.
        """
        utterance = utterance_of(cut)
        if utterance.line == CALL:
            raise ValueError(
                f"{cut.id}: not as it was recorded, for train.simulate_calls keeps only the call; "
                "read the folder that it was made from"
            )
        speech = audio_of(cut, WIDEBAND_RATE)
        if crop is not None:
            random = generator(self.seed, self.epoch, cut.id)
            speech = filled(speech, round(crop * WIDEBAND_RATE), random)
        return Example(speech, None, targets_of(utterance, self.tree))
