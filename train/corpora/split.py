"""Which speaker goes into which split, and which clips of one who has too many are kept.

Rules, for each corpus by itself:

1. A speaker stands in one split only.
2. Splits that the corpus gives are kept. A speaker whom the corpus has in several goes as a whole
   to the one with most of his clips, ties to the rarer use (test, dev, train): so least changes.
3. A requested split that none of the corpora gives is taken out of their train splits.
4. Everybody else is spread so that each cell of gender and age band meets the fractions; what
   whole numbers leave over goes to whichever split lacks most in the corpus.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from train.corpora.clip import Clip, Speaker

SPLITS = ("train", "dev", "test")
_ROUNDING = 1e-9
Cell = tuple[str, str]


@dataclass
class Assignment:
    """Outcome of :func:`assign`.

    Attributes:
        splits: split of every speaker.
        leaked: speakers whom the corpus has in several splits, with clips by split.
    """

    splits: dict[Speaker, str] = field(default_factory=dict)
    leaked: dict[Speaker, dict[str, int]] = field(default_factory=dict)


@dataclass
class _Person:
    cell: Cell
    given: Counter[str]


def assign(clips: Iterable[Clip], fractions: Mapping[str, float], seed: int) -> Assignment:
    """Splits of all speakers, the same for the same speakers and seed in whatever order.

    Args:
        clips: of one or more corpora.
        fractions: share of speakers by split; must cover :data:`SPLITS` and sum to 1.
        seed: of the choice.

    Raises:
        ValueError: fractions negative, incomplete or not summing to 1.
    """
    check_fractions(fractions)
    people: defaultdict[str, dict[Speaker, _Person]] = defaultdict(dict)
    bands: defaultdict[Speaker, Counter[str]] = defaultdict(Counter)
    for clip in clips:
        utterance = clip.utterance
        person = people[utterance.corpus].setdefault(
            clip.speaker, _Person((utterance.gender, ""), Counter())
        )
        bands[clip.speaker][utterance.age_band] += 1
        if utterance.split:
            person.given[utterance.split] += 1
    result = Assignment()
    for members in people.values():
        for speaker, person in members.items():
            # recorded over years, a speaker may change band; sorted breaks ties for good
            band = max(sorted(bands[speaker]), key=bands[speaker].__getitem__)
            person.cell = (person.cell[0], band)
            if person.given:
                result.splits[speaker] = _home(person.given)
            if len(person.given) > 1:
                result.leaked[speaker] = dict(person.given)
    missing = {s for s in SPLITS if fractions[s] > 0} - set(result.splits.values())
    for corpus, members in sorted(people.items()):
        fixed = {
            speaker: result.splits[speaker]
            for speaker in members
            if speaker in result.splits and not (missing and result.splits[speaker] == "train")
        }
        rng = random.Random(f"{seed}/{corpus}")
        result.splits |= _spread(members, fixed, fractions, rng)
    return result


def check_fractions(fractions: Mapping[str, float]) -> None:
    """Raise ValueError unless every split has a share of 0 or more and they sum to 1."""
    if set(fractions) != set(SPLITS) or min(fractions.values()) < 0:
        raise ValueError(f"splits {dict(fractions)}: needs {SPLITS}, none below 0")
    if abs(sum(fractions.values()) - 1) > 1e-6:
        raise ValueError(f"splits {dict(fractions)} sum to {sum(fractions.values()):g}, not 1")


def _home(given: Counter[str]) -> str:
    """Split with most clips, ties to test, then dev."""
    return max(reversed(SPLITS), key=lambda split: given[split])


def _spread(
    people: Mapping[Speaker, _Person],
    fixed: Mapping[Speaker, str],
    fractions: Mapping[str, float],
    rng: random.Random,
) -> dict[Speaker, str]:
    """Splits of the speakers of one corpus who are not fixed; the fixed ones count as well."""
    placed = dict(fixed)
    have = Counter(fixed.values())
    have_in_cell = Counter((people[speaker].cell, split) for speaker, split in fixed.items())
    sizes = Counter(person.cell for person in people.values())

    def place_in(split: str, speaker: Speaker) -> None:
        placed[speaker] = split
        have[split] += 1
        have_in_cell[people[speaker].cell, split] += 1

    def open_to(speaker: Speaker) -> list[str]:
        # who comes out of the given train split may not swell a given test split
        closed = have_given if people[speaker].given else set()
        return [s for s in SPLITS if fractions[s] > 0 and (s == "train" or s not in closed)]

    have_given = set(fixed.values())
    free: defaultdict[Cell, list[Speaker]] = defaultdict(list)
    for speaker in sorted(people.keys() - fixed.keys()):
        free[people[speaker].cell].append(speaker)
    left: list[Speaker] = []
    for cell, speakers in sorted(free.items()):
        rng.shuffle(speakers)
        for speaker in speakers:
            lack = {
                split: int(sizes[cell] * fractions[split] + _ROUNDING) - have_in_cell[cell, split]
                for split in open_to(speaker)
            }
            split = max(lack, key=lack.__getitem__)
            if lack[split] > 0:
                place_in(split, speaker)
            else:
                left.append(speaker)
    rng.shuffle(left)
    for speaker in left:
        lacking = {s: len(people) * fractions[s] - have[s] for s in open_to(speaker)}
        place_in(max(lacking, key=lacking.__getitem__), speaker)
    return placed


def cap(clips: Iterable[Clip], most: int, seed: int) -> list[Clip]:
    """At most so many clips of each speaker, drawn at random but the same for the same seed.

    Args:
        clips: in any order; the result keeps it.
        most: clips of one speaker; 0 keeps all.
        seed: of the choice.
    """
    clips = list(clips)
    by_speaker: defaultdict[Speaker, list[str]] = defaultdict(list)
    for clip in clips:
        by_speaker[clip.speaker].append(clip.id)
    kept: set[str] = set()
    for speaker, ids in by_speaker.items():
        if most and len(ids) > most:
            rng = random.Random(f"{seed}/{speaker[0]}/{speaker[1]}")
            kept.update(rng.sample(sorted(ids), most))
        else:
            kept.update(ids)
    return [clip for clip in clips if clip.id in kept]


def place(clips: Iterable[Clip], splits: Mapping[Speaker, str]) -> list[Clip]:
    """The clips with their split and the number of clips of their speaker filled in."""
    clips = list(clips)
    count = Counter(clip.speaker for clip in clips)
    return [
        replace(clip, split=splits[clip.speaker], speaker_clips=count[clip.speaker])
        for clip in clips
    ]
