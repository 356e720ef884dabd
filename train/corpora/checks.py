"""What every corpus has to pass once its audio is known, whatever its source."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from train.corpora.audio import AudioInfo
from train.corpora.clip import Clip, Speaker
from train.corpora.faults import Unusable
from train.corpora.utterance import Rejected, Utterance

LOWEST_RATE = 8000
"""Hz; below it the audio is narrower than a telephone."""


def audible(
    utterances: Iterable[Utterance],
    headers: Mapping[str, AudioInfo | Unusable],
    shortest: float,
    longest: float,
) -> tuple[list[Clip], list[Rejected]]:
    """Utterances with audio of a sensible rate and length.

    Args:
        utterances: in any order; the clips keep it.
        headers: of every source, or what is wrong with it.
        shortest: seconds.
        longest: seconds.
    """
    clips, rejected = [], []
    for utterance in utterances:
        try:
            clips.append(_clip(utterance, headers[utterance.source], shortest, longest))
        except Unusable as fault:
            rejected.append(fault.at(utterance.source))
    return clips, rejected


def _clip(
    utterance: Utterance, header: AudioInfo | Unusable, shortest: float, longest: float
) -> Clip:
    if isinstance(header, Unusable):
        raise header
    clip = Clip(utterance, header)
    if header.rate < LOWEST_RATE:
        raise Unusable("sample rate too low", f"{header.rate} Hz")
    if clip.seconds < shortest:
        raise Unusable("too short", f"{clip.seconds:.2f} s")
    if clip.seconds > longest:
        raise Unusable("too long", f"{clip.seconds:.2f} s")
    return clip


def of_one_gender(clips: Iterable[Clip]) -> tuple[list[Clip], list[Rejected]]:
    """Clips without the speakers of two genders: an account that several use, or a slip."""
    clips = list(clips)
    genders: defaultdict[Speaker, set[str]] = defaultdict(set)
    for clip in clips:
        genders[clip.speaker].add(clip.utterance.gender)
    rejected = [
        Rejected(
            clip.utterance.source,
            "speaker with two genders",
            f"speaker {clip.utterance.speaker!r}, here {clip.utterance.gender}",
        )
        for clip in clips
        if len(genders[clip.speaker]) > 1
    ]
    return [clip for clip in clips if len(genders[clip.speaker]) == 1], rejected
