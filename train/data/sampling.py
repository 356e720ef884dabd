"""Which utterances an epoch is made of: balanced, bucketed by length, a share for every rank.

An epoch is a number of steps, not a pass: cells of gender and age band are evened out by drawing
some utterances several times and others seldom, and every rank takes the same number of steps
whatever its shards hold. Everything follows from (seed, epoch, rank): to go on after an
interruption costs reading, not decoding, the batches that were already taken.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import count, islice

import numpy as np
from lhotse import CutSet, MonoCut
from lhotse.dataset import DynamicBucketingSampler
from torch.utils.data import Sampler

from train.data.dataset import Split, plain_id, speaker_clips, utterance_of


@dataclass(frozen=True)
class Sampling:
    """How an epoch is drawn.

    Attributes:
        batch_size: utterances per step and rank.
        balance: 0 leaves gender x band as frequent as it is, 1 makes every cell equal. Within a
            speaker it is always a square root: a talker of a hundred clips counts as ten.
        bins: boundaries of the length buckets, seconds: a batch comes from one bucket, so that
            little of it is padding.
        buffer: utterances held, undecoded, to draw batches from; more mixes better, more than the
            split has does not.
        weights: factor by id in the corpus, from a list of probable label errors; 1 where absent.
        seed: of everything drawn.
        rank, world: this process among how many.
    """

    batch_size: int
    balance: float = 0.5
    bins: tuple[float, ...] = (2.0, 4.0)
    buffer: int = 2048
    weights: Mapping[str, float] = field(default_factory=dict)
    seed: int = 1
    rank: int = 0
    world: int = 1


def expected_copies(split: Split, balance: float) -> Callable[[MonoCut], float]:
    """How often a cut is drawn in a pass on average; 1 on average over all cuts.

    Args:
        split: with the counts of its cells.
        balance: see :class:`Sampling`.
    """
    total = sum(cell.clips**-balance * cell.mass for cell in split.cells.values())
    rate = {key: split.clips / total * cell.clips**-balance for key, cell in split.cells.items()}

    def expected(cut: MonoCut) -> float:
        utterance = utterance_of(cut)
        return float(rate[utterance.gender, utterance.age_band] * speaker_clips(cut) ** -0.5)

    return expected


def generator(*parts: int | str) -> np.random.Generator:
    """Random numbers that depend on ``parts`` alone, the same on every machine."""
    numbers = [
        int.from_bytes(hashlib.blake2b(part.encode(), digest_size=8).digest(), "little")
        if isinstance(part, str)
        else part
        for part in parts
    ]
    return np.random.default_rng(numbers)


class Draws:
    """Endless stream of the cuts that one rank draws in one epoch, copies with ids of their own.

    Raises while iterating:
        ValueError: nothing is ever drawn, because every weight of this rank's cuts is zero.
    """

    def __init__(self, split: Split, sampling: Sampling, epoch: int) -> None:
        self._split, self._sampling, self._epoch = split, sampling, epoch
        self._expected = expected_copies(split, sampling.balance)

    def __iter__(self) -> Iterator[MonoCut]:
        for lap in count():
            drawn = False
            for cut in self._pass(lap):
                drawn = True
                yield cut
            if not drawn:
                raise ValueError(
                    f"rank {self._sampling.rank} of {self._sampling.world} draws no utterance: "
                    "too few shards, or every one is excluded"
                )

    def _pass(self, lap: int) -> Iterator[MonoCut]:
        sampling, shards = self._sampling, self._split.shards
        order = self._order(lap)
        whole = len(shards) >= sampling.world  # else ranks share shards, cut by cut
        mine = order[sampling.rank :: sampling.world] if whole else order
        for shard in mine:
            for number, cut in enumerate(shards[shard].read()):
                if whole or number % sampling.world == sampling.rank:
                    yield from self._copies(cut, lap)

    def _order(self, lap: int) -> list[int]:
        """Shards in the order of a pass: at random, but one draw of an utterance after another.

        Of three draws every third of the pass has one, so that an epoch of as many steps sees
        each utterance once instead of some three times and others not at all.
        """
        random = generator(self._sampling.seed, self._epoch, lap)
        shards = self._split.shards
        places = random.permutation(len(shards)).argsort() / len(shards)
        turns = {n: random.permutation(n) for n in sorted({shard.draws for shard in shards})}
        when = [
            (turns[shard.draws][shard.draw] + place) / shard.draws
            for shard, place in zip(shards, places, strict=True)
        ]
        order: list[int] = np.argsort(when, kind="stable").tolist()
        return order

    def _copies(self, cut: MonoCut, lap: int) -> Iterator[MonoCut]:
        expected = self._expected(cut) * self._sampling.weights.get(plain_id(cut.id), 1.0)
        chance = generator(self._sampling.seed, self._epoch, lap, cut.id).random()
        for copy in range(int(expected + chance)):
            yield replace(cut, id=f"{cut.id}#{lap}.{copy}")


class EpochSampler(Sampler[CutSet]):
    """Batches of one epoch of one rank, the same on every iteration.

    Args:
        split: what to draw from.
        sampling: how.
        epoch: which epoch.
        steps: batches in it.
        start: batches already taken before an interruption; they are left out.
    """

    def __init__(
        self, split: Split, sampling: Sampling, epoch: int, *, steps: int, start: int = 0
    ) -> None:
        self._split, self._sampling, self._epoch = split, sampling, epoch
        self._steps, self._start = steps, start

    def _bucketed(self) -> DynamicBucketingSampler:
        sampling, epoch = self._sampling, self._epoch
        return DynamicBucketingSampler(
            CutSet(Draws(self._split, sampling, epoch)),
            max_cuts=sampling.batch_size,
            duration_bins=list(sampling.bins),
            buffer_size=max(
                min(sampling.buffer, self._split.clips),
                (len(sampling.bins) + 1) * sampling.batch_size,
            ),
            shuffle=True,
            seed=int(generator(sampling.seed, epoch).integers(2**31)),
            world_size=1,  # the stream is this rank's own already
            rank=0,
        )

    def __len__(self) -> int:
        return self._steps - self._start

    def __iter__(self) -> Iterator[CutSet]:
        yield from islice(iter(self._bucketed()), self._start, self._steps)
