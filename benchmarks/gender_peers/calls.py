"""Calls of peers.py: who is asked about, and the audio in the form that each peer takes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import soundfile
from scoring.calls import LONGEST_CALL_SECONDS, PAUSE_SECONDS, Band, join, read_sound
from scoring.manifest import Labelled
from scoring.plans import Plan

from streamer.audio.codec import SAMPLE_RATE, Encoding, Samples, decode, encode
from train.corpora.audio import read_audio, resample

Condition = Literal["telephone", "wideband"]
CONDITIONS: tuple[Condition, ...] = ("telephone", "wideband")
GENDERS = ("female", "male")
CHILD = "child"
WIDE_RATE = 16_000


@dataclass(frozen=True)
class Recording:
    """A call in both conditions.

    Attributes:
        truth: "female" or "male".
        person: who speaks, unique across corpora.
        telephone: mu-law at 8 kHz.
        wideband: int16 at 16 kHz.
    """

    truth: str
    person: str
    telephone: bytes
    wideband: Samples

    def seconds(self, condition: Condition) -> float:
        """Length of the call."""
        if condition == "telephone":
            return len(self.telephone) / SAMPLE_RATE
        return len(self.wideband) / WIDE_RATE


def adults(utterances: Sequence[Labelled]) -> list[Labelled]:
    """Those of known gender and known age who are no children, as accuracy.py counts adults."""
    return [u for u in utterances if u.gender in GENDERS and u.age_band not in ("", CHILD)]


def sampled(utterances: Sequence[Labelled], limit: int | None, seed: int) -> list[Labelled]:
    """At most ``limit`` utterances, as many speakers as possible and as evenly, drawn by ``seed``.

    One utterance of every speaker before a second one of any; in the order of the manifest.
    """
    if limit is None or limit >= len(utterances):
        return list(utterances)
    chance = random.Random(seed)
    speakers: dict[tuple[str, ...], list[int]] = {}
    for number, utterance in enumerate(utterances):
        alone = () if utterance.speaker else (str(number),)
        speakers.setdefault((utterance.corpus, utterance.speaker, *alone), []).append(number)
    ranked = []
    for numbers in speakers.values():
        chance.shuffle(numbers)
        ranked += [(turn, chance.random(), number) for turn, number in enumerate(numbers)]
    return [
        utterances[number] for number in sorted(number for *_, number in sorted(ranked)[:limit])
    ]


def read(plan: Plan, band: Band) -> Recording:
    """The audio of a call; utterances of a joined one stand 0.6 s apart, 60 s in all at most.

    Raises:
        ValueError: a file cannot be read; the message gives its name, not its folder.
    """
    telephone = join(read_sound(path, band) for path in plan.paths)
    try:
        wide = [read_audio(str(path), WIDE_RATE) for path in plan.paths]
    except (OSError, soundfile.SoundFileError) as error:
        raise ValueError(f"{plan.paths[0].name}: cannot be read at {WIDE_RATE} Hz") from error
    pause = np.zeros(round(PAUSE_SECONDS * WIDE_RATE), np.int16)
    parts = [part for sound in wide for part in (pause, sound)][1:]
    most = round(LONGEST_CALL_SECONDS * WIDE_RATE)
    return Recording(plan.gender, plan.person, telephone, np.concatenate(parts)[:most])


def form(
    recording: Recording, condition: Condition, rate: int | None
) -> tuple[bytes, Encoding, int]:
    """A call as a peer takes it: bytes, their encoding, Hz.

    Args:
        recording: the call.
        condition: which of its forms.
        rate: Hz to resample to; None for mu-law as the telephone delivers it.
    """
    if condition == "telephone":
        if rate is None:
            return recording.telephone, Encoding.MULAW, SAMPLE_RATE
        samples, own = decode(recording.telephone, Encoding.MULAW), SAMPLE_RATE
    else:
        samples, own = recording.wideband, WIDE_RATE
    rate = rate or own
    return encode(resample(samples, own, rate), Encoding.LINEAR16), Encoding.LINEAR16, rate
