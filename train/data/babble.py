"""A pool of training speech from which the telephone channel makes other people's talk."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from lhotse import MonoCut

from streamer.audio.codec import SAMPLE_RATE, Samples
from streamer.audio.speech_gate import speech_of
from train.corpora.utterance import CALL
from train.data.dataset import Split, audio_of, utterance_of

POOL = 300
"""Talkers kept in memory: at a few seconds each some 20 MB."""
LONGEST_SECONDS = 6.0


@dataclass(frozen=True)
class BabblePool:
    """Speech of some training speakers, pauses taken out.

    Attributes:
        speech: int16 [n] at 8 kHz of each talker.
        speakers: who it is, ``corpus/speaker``.
    """

    speech: tuple[Samples, ...]
    speakers: tuple[str, ...]

    @staticmethod
    def of(split: Split, count: int = POOL) -> BabblePool:
        """One utterance each of the first ``count`` speakers of a split that speak in it.

        What cannot be decoded is passed over; the loader names it when it comes to it. So are the
        finished calls of train.simulate_calls, which get no babble any more.
        """
        speech: dict[str, Samples] = {}
        most = round(LONGEST_SECONDS * SAMPLE_RATE)
        for cut in _before_the_telephone(split):
            if len(speech) >= count:
                break
            speaker = cut.supervisions[0].speaker
            if speaker in speech:
                continue
            with contextlib.suppress(OSError):
                found = speech_of(audio_of(cut, SAMPLE_RATE))[:most]
                if len(found) >= SAMPLE_RATE // 2:
                    speech[speaker] = found
        return BabblePool(tuple(speech.values()), tuple(speech))

    def besides(self, speaker: str, random: np.random.Generator, n: int) -> Samples:
        """int16 [n] at 8 kHz of one talker other than ``speaker``; silence if there is none.

        Args:
            speaker: ``corpus/speaker`` left out, so that no speaker is mixed with herself.
            random: chooses the talker and where to begin; short speech is repeated.
            n: samples.
        """
        others = [i for i, name in enumerate(self.speakers) if name != speaker]
        if not others:
            return np.zeros(n, np.int16)
        chosen = self.speech[others[int(random.integers(len(others)))]]
        start = int(random.integers(len(chosen)))
        drawn: Samples = np.take(chosen, np.arange(start, start + n), mode="wrap")
        return drawn


def _before_the_telephone(split: Split) -> Iterator[MonoCut]:
    for shard in split.shards:
        for cut in shard.read():
            if utterance_of(cut).line == CALL:
                break  # like the rest of its shard: no need to read on
            yield cut
