"""Does an embedding know which corpus a voice comes from, where the age is the same?

A student can learn the microphone of a corpus instead of the age of its speakers. Within one age
band the corpus is no hint of the age, so a linear probe that finds it there shows that the
way to the shortcut is open (Alain and Bengio 2016, "linear classifier probes").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from train.folds import speaker_folds

LEAST_SPEAKERS = 5
"""Speakers that a corpus needs in a band: one in each fold."""
FOLDS = 5
SHUFFLES = 5
ROUNDS = 1000
"""Resamplings of the speakers for an interval."""

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class BandProbe:
    """The probe within one age band.

    All accuracies are balanced: every corpus, and in it every speaker, counts the same.

    Attributes:
        band: age band.
        speakers: by corpus that took part.
        left_out: by corpus with fewer than :data:`LEAST_SPEAKERS`.
        reason: why it could not be measured, else empty; then all figures are None.
        chance: 1 / number of corpora.
        accuracy: of the probe on the embedding, on speakers it has not seen.
        low, high: 95 % interval of ``accuracy``, by resampling speakers.
        shuffled: mean accuracy with the corpora dealt out to speakers at random.
        audio: accuracy of the same probe on plain spectra; None without them.
        recall: by corpus, how many of its utterances the probe on the embedding recognises.
    """

    band: str
    speakers: dict[str, int]
    left_out: dict[str, int] = field(default_factory=dict)
    reason: str = ""
    chance: float | None = None
    accuracy: float | None = None
    low: float | None = None
    high: float | None = None
    shuffled: float | None = None
    audio: float | None = None
    recall: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ProbeResult:
    """A probe for every age band that occurs, in the order given."""

    bands: list[BandProbe]

    def to_dict(self) -> list[dict[str, Any]]:
        """Plain, finite, JSON-ready: a row a band."""
        return [asdict(band) for band in self.bands]


def corpus_probe(
    embeddings: Floats,
    corpora: Sequence[str],
    bands: Sequence[str],
    speakers: Sequence[str],
    seed: int,
    *,
    spectra: Floats | None = None,
) -> ProbeResult:
    """Probe each age band that has two or more corpora with enough speakers.

    Args:
        embeddings: [n, d], finite.
        corpora: [n].
        bands: [n]; empty where unknown, which takes no part.
        speakers: [n], unique across corpora.
        seed: of folds, shuffles and resampling.
        spectra: [n, k] of the same utterances, to compare with.

    Raises:
        ValueError: lengths differ, or a feature is not finite; names which.
    """
    for name, given in (("embeddings", embeddings), ("spectra", spectra)):
        if given is not None and not np.isfinite(given).all():
            raise ValueError(f"{name}: not all are finite")
    lengths = {len(r) for r in (embeddings, corpora, bands, speakers)}
    if len(lengths | ({len(spectra)} if spectra is not None else set())) != 1:
        raise ValueError(
            f"embeddings, corpora, bands, speakers, spectra differ in length: {lengths}"
        )
    where = np.array(corpora, dtype=str)
    which = np.array(bands, dtype=str)
    who = np.array(speakers, dtype=str)
    made = []
    for band in dict.fromkeys(b for b in bands if b):
        rows = np.flatnonzero(which == band)
        people = {c: len(set(who[rows][where[rows] == c])) for c in sorted(set(where[rows]))}
        enough = {str(c): n for c, n in people.items() if n >= LEAST_SPEAKERS}
        few = {str(c): n for c, n in people.items() if n < LEAST_SPEAKERS}
        if len(enough) < 2:
            why = f"corpora with {LEAST_SPEAKERS} speakers or more: {len(enough)}, needs 2"
            made.append(BandProbe(band, enough, few, why))
            continue
        rows = rows[np.isin(where[rows], list(enough))]
        task = _Task(where[rows], who[rows], seed)
        correct = task.by_speaker(embeddings[rows])
        low, high = task.interval(correct)
        made.append(
            BandProbe(
                band,
                enough,
                few,
                chance=1 / len(enough),
                accuracy=task.balanced(correct),
                low=low,
                high=high,
                shuffled=task.shuffled(embeddings[rows]),
                recall=dict(zip(enough, task.recalls(correct).tolist(), strict=True)),
                audio=None if spectra is None else task.balanced(task.by_speaker(spectra[rows])),
            )
        )
    return ProbeResult(made)


class _Task:
    """Telling the corpora of one band apart.

    Args:
        corpora: [m] of each clip.
        speakers: [m].
        seed: of everything drawn.
    """

    def __init__(self, corpora: NDArray[np.str_], speakers: NDArray[np.str_], seed: int) -> None:
        self._seed = seed
        self._names, first, self._speaker = np.unique(
            speakers, return_index=True, return_inverse=True
        )
        self._corpora = np.unique(corpora[first], return_inverse=True)[1]  # of each speaker

    def by_speaker(self, features: Floats, corpora: Ints | None = None) -> Floats:
        """Share of each speaker's clips that a probe blind to the speaker puts right."""
        truth = self._corpora if corpora is None else corpora
        clips = np.bincount(self._speaker)
        folds = speaker_folds(
            truth[self._speaker], list(self._names[self._speaker]), FOLDS, self._seed
        )
        weight = (1 / (clips * np.bincount(truth)[truth]))[self._speaker]
        weight /= weight.mean()
        label = truth[self._speaker]
        right = np.zeros(len(label))
        with threadpool_limits(1):  # matrices this small are faster without company
            for fold in range(FOLDS):
                test = folds == fold
                probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=5000))
                probe.fit(
                    features[~test],
                    label[~test],
                    logisticregression__sample_weight=weight[~test],
                )
                right[test] = probe.predict(features[test]) == label[test]
        share: Floats = np.bincount(self._speaker, right) / clips
        return share

    def recalls(self, share: Floats, corpora: Ints | None = None) -> Floats:
        """Mean over the speakers of each corpus, in the order of their names."""
        truth = self._corpora if corpora is None else corpora
        means: Floats = np.bincount(truth, share) / np.bincount(truth)
        return means

    def balanced(self, share: Floats, corpora: Ints | None = None) -> float:
        """Mean of :meth:`recalls`."""
        return float(self.recalls(share, corpora).mean())

    def shuffled(self, features: Floats) -> float:
        """Mean accuracy where there is nothing to find."""
        random = np.random.default_rng(self._seed)
        scores = []
        for _ in range(SHUFFLES):
            dealt = random.permutation(self._corpora)
            scores.append(self.balanced(self.by_speaker(features, dealt), dealt))
        return float(np.mean(scores))

    def interval(self, share: Floats) -> tuple[float, float]:
        """95 % interval by resampling the speakers of each corpus."""
        random = np.random.default_rng(self._seed)
        means = []
        for corpus in range(self._corpora.max() + 1):
            mine = share[self._corpora == corpus]
            means.append(random.choice(mine, (ROUNDS, len(mine))).mean(axis=1))
        low, high = np.quantile(np.mean(means, axis=0), (0.025, 0.975))
        return float(low), float(high)
