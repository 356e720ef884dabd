"""Choose the simulated telephone of each utterance."""

from __future__ import annotations

from typing import Literal

import numpy as np

from streamer.audio.codec import Samples
from train.corpora.utterance import Utterance
from train.data.babble import BabblePool
from train.telephone import PRESETS, ChannelSettings, TelephoneChannel

Preset = Literal["clean", "simple", "full"]

AGAIN = {"level_share": 1.0, "g711_share": 1.0}
"""What is new when a recorded call is made again: its level, and the law of the last mile."""


class ChannelSampler:
    """The channel of every utterance: a drawn one for wideband, hardly any for telephone speech.

    Args:
        preset: what wideband recordings go through, a name of ``train.telephone.PRESETS``.
        talkers: mixed into the background; None leaves that out.
    """

    def __init__(self, preset: Preset, talkers: BabblePool | None = None) -> None:
        again = ChannelSettings.clean().model_copy(update=AGAIN if preset != "clean" else {})
        self._channels = {
            "wideband": TelephoneChannel(PRESETS[preset], babble=self._other if talkers else None),
            "telephone": TelephoneChannel(again),
        }
        self._talkers = talkers or BabblePool((), ())
        self._speaker = ""

    def _other(self, random: np.random.Generator, n: int) -> Samples:
        """Someone else than the speaker of the utterance in hand."""
        return self._talkers.besides(self._speaker, random, n)

    def __call__(
        self, samples: Samples, random: np.random.Generator, utterance: Utterance
    ) -> Samples:
        """int16 [n] at 8 kHz as the telephone delivers it.

        Raises:
            ValueError: the utterance's line is neither "wideband" nor "telephone".
        """
        channel = self._channels.get(utterance.line)
        if channel is None:
            raise ValueError(f"{utterance.id}: line {utterance.line!r}, not wideband or telephone")
        self._speaker = f"{utterance.corpus}/{utterance.speaker}"
        return channel(samples, random)
