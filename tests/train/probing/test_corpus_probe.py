"""A planted corpus direction is found, its absence is chance, and nobody is heard twice."""

import json

import numpy as np
import pytest

from train.probing.corpus_probe import corpus_probe


def crowd(
    planted=0.0, corpora=("a", "b", "c"), people=12, clips=3, bands=("20s",), width=8, seed=1
):
    """Speakers with a voice of their own; ``planted`` shifts each corpus along its own axis."""
    random = np.random.default_rng(seed)
    rows, where, which, who = [], [], [], []
    for band in bands:
        for number, corpus in enumerate(corpora):
            for person in range(people):
                voice = random.standard_normal(width)
                voice[number] += planted
                for _ in range(clips):
                    rows.append(voice + 0.3 * random.standard_normal(width))
                    where.append(corpus)
                    which.append(band)
                    who.append(f"{corpus}/{band}-{person}")
    return np.array(rows), where, which, who


def test_a_planted_corpus_direction_is_found():
    rows, where, which, who = crowd(planted=8.0, bands=("20s", "30s"))
    plain = np.random.default_rng(2).standard_normal((len(rows), 5))
    result = corpus_probe(rows, where, which, who, seed=1, spectra=plain)
    assert [band.band for band in result.bands] == ["20s", "30s"]
    for band in result.bands:
        assert band.accuracy > 0.97
        assert band.low > 0.9
        assert band.chance == pytest.approx(1 / 3)
        assert band.shuffled == pytest.approx(1 / 3, abs=0.15)
        assert band.audio == pytest.approx(1 / 3, abs=0.15)
        assert band.speakers == {"a": 12, "b": 12, "c": 12}
        assert min(band.recall.values()) > 0.9
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False)) == result.to_dict()


def test_without_a_corpus_direction_it_is_chance():
    rows, where, which, who = crowd(people=40)
    (band,) = corpus_probe(rows, where, which, who, seed=1).bands
    assert band.accuracy == pytest.approx(1 / 3, abs=0.1)
    assert band.low < 1 / 3 < band.high
    assert band.audio is None


def test_speakers_are_not_recognised_from_their_other_clips():
    """Voices all alike within a speaker, unlike between: leaking clips would give near 1."""
    rows, where, which, who = crowd(people=10, clips=12, width=60)
    (band,) = corpus_probe(rows, where, which, who, seed=1).bands
    assert band.accuracy < 0.55


def test_corpora_and_speakers_count_the_same_however_many_clips():
    """One corpus in ten is told apart by one loud speaker's clips only if clips counted."""
    rows, where, which, who = crowd(corpora=("a", "b"), people=6, planted=8.0)
    again = [i for i, s in enumerate(who) if s == "a/20s-0"] * 40
    rows = np.concatenate([rows, -rows[again]])
    where, which, who = (column + [column[i] for i in again] for column in (where, which, who))
    (band,) = corpus_probe(rows, where, which, who, seed=1).bands
    assert band.recall["a"] > 0.8
    assert band.recall["b"] == 1.0


@pytest.mark.parametrize(
    ("corpora", "people", "reason"),
    [
        (("a",), 12, "corpora with 5 speakers or more: 1, needs 2"),
        (("a", "b"), 4, "corpora with 5 speakers or more: 0, needs 2"),
    ],
)
def test_what_cannot_be_measured_says_so(corpora, people, reason):
    rows, where, which, who = crowd(corpora=corpora, people=people)
    (band,) = corpus_probe(rows, where, which, who, seed=1).bands
    assert band.reason == reason
    assert (band.accuracy, band.chance, band.low, band.shuffled) == (None,) * 4


def test_small_corpora_are_left_out_and_named():
    rows, where, which, who = crowd(people=6)
    rows = np.concatenate([rows, rows[:1]])
    (band,) = corpus_probe(rows, [*where, "d"], [*which, "20s"], [*who, "d/x"], seed=1).bands
    assert band.left_out == {"d": 1}
    assert set(band.speakers) == {"a", "b", "c"}


def test_unknown_bands_and_nobody_at_all():
    rows, where, which, who = crowd(people=2)
    assert corpus_probe(rows, where, [""] * len(which), who, seed=1).bands == []
    assert corpus_probe(np.empty((0, 4)), [], [], [], seed=1).bands == []


def test_wrong_input_is_named():
    rows, where, which, who = crowd(people=2)
    with pytest.raises(ValueError, match="differ in length"):
        corpus_probe(rows[:-1], where, which, who, seed=1)
    rows[0, 0] = np.nan
    with pytest.raises(ValueError, match="embeddings: not all are finite"):
        corpus_probe(rows, where, which, who, seed=1)
