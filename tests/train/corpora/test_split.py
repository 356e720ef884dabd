from collections import Counter, defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.corpora.audio import AudioInfo
from train.corpora.clip import Clip
from train.corpora.split import SPLITS, assign, cap, place
from train.corpora.utterance import Utterance

SHARES = {"train": 0.8, "dev": 0.1, "test": 0.1}


def clip(speaker: int, number: int = 0, gender="female", band="20s", split="", corpus="c") -> Clip:
    name = f"s{speaker}"
    utterance = Utterance(
        f"{name}-{number}", corpus, name, gender, f"/{name}", age_band=band, split=split
    )
    return Clip(utterance, AudioInfo(8000, 8000, 1))


people = st.lists(
    st.tuples(
        st.sampled_from(["female", "male"]),
        st.sampled_from(["teens", "20s", "60+", ""]),
        st.sampled_from(["c", "d"]),
        st.integers(1, 3),
    ),
    min_size=1,
    max_size=120,
)
fractions = st.tuples(st.integers(0, 8), st.integers(0, 8), st.integers(1, 8)).map(
    lambda parts: {s: n / sum(parts) for s, n in zip(SPLITS, parts, strict=True)}
)


def clips_of(persons) -> list[Clip]:
    return [
        clip(speaker, number, gender, band, corpus=corpus)
        for speaker, (gender, band, corpus, clips) in enumerate(persons)
        for number in range(clips)
    ]


@given(people, fractions, st.integers(0, 3), st.randoms())
def test_splits_are_disjoint_complete_and_the_same_whatever_the_order(
    persons, shares, seed, random
):
    clips = clips_of(persons)
    splits = assign(clips, shares, seed).splits
    assert splits.keys() == {c.speaker for c in clips}
    assert {s for s in SPLITS if shares[s] == 0}.isdisjoint(splits.values())
    random.shuffle(clips)
    assert assign(clips, shares, seed).splits == splits
    by_speaker = defaultdict(set)
    for one in place(clips, splits):
        by_speaker[one.speaker].add(one.split)
        assert one.speaker_clips == persons[int(one.utterance.speaker[1:])][3]
    assert all(len(found) == 1 for found in by_speaker.values())


@given(people, fractions, st.integers(0, 3))
def test_every_cell_with_enough_speakers_is_in_every_split(persons, shares, seed):
    splits = assign(clips_of(persons), shares, seed).splits
    cells = Counter((corpus, gender, band) for gender, band, corpus, _ in persons)
    found = Counter(
        ((corpus, gender, band), splits[corpus, f"s{speaker}"])
        for speaker, (gender, band, corpus, _) in enumerate(persons)
    )
    for cell, size in cells.items():
        for split in SPLITS:
            assert found[cell, split] >= int(size * shares[split] + 1e-9)


@given(people, st.integers(0, 3))
def test_each_corpus_meets_the_shares(persons, seed):
    splits = assign(clips_of(persons), SHARES, seed).splits
    for corpus in ("c", "d"):
        mine = [split for (of, _), split in splits.items() if of == corpus]
        for split in SPLITS:
            assert abs(mine.count(split) - len(mine) * SHARES[split]) <= 1


def test_another_seed_splits_otherwise():
    clips = [clip(speaker) for speaker in range(100)]
    assert assign(clips, SHARES, 1).splits != assign(clips, SHARES, 2).splits


def test_splits_of_the_corpus_are_kept():
    given_splits = [SPLITS[speaker % 3] for speaker in range(30)]
    clips = [clip(s, n, split=given_splits[s]) for s in range(30) for n in range(2)]
    result = assign(clips, SHARES, 1)
    assert result.splits == {("c", f"s{s}"): given_splits[s] for s in range(30)}
    assert result.leaked == {}


def test_a_speaker_in_several_splits_goes_where_most_of_the_clips_are():
    clips = [clip(0, n, split="train") for n in range(3)] + [clip(0, 3, split="test")]
    clips += [clip(1, 0, split="train"), clip(1, 1, split="test")]  # a tie: the rarer use
    clips += [clip(2, split="dev"), clip(3, split="test")]
    result = assign(clips, SHARES, 1)
    assert result.splits["c", "s0"] == "train"
    assert result.splits["c", "s1"] == "test"
    assert result.leaked == {
        ("c", "s0"): {"train": 3, "test": 1},
        ("c", "s1"): {"train": 1, "test": 1},
    }


def test_a_missing_split_is_taken_out_of_train_and_test_stays_whole():
    clips = [clip(s, split="train" if s < 90 else "test") for s in range(100)]
    splits = assign(clips, SHARES, 1).splits
    assert Counter(splits.values()) == {"train": 80, "dev": 10, "test": 10}
    assert all(splits["c", f"s{s}"] == "test" for s in range(90, 100))


def test_a_split_that_another_corpus_gives_is_not_missing():
    clips = [clip(s, split="train", corpus="c") for s in range(20)]
    clips += [clip(s, split=SPLITS[s % 3], corpus="d") for s in range(20)]
    splits = assign(clips, SHARES, 1).splits
    assert {split for (corpus, _), split in splits.items() if corpus == "c"} == {"train"}


def test_speakers_without_a_split_fill_up_what_the_corpus_gives():
    clips = [clip(s, split=SPLITS[s]) for s in range(3)] + [clip(s) for s in range(3, 100)]
    clips += [clip(2, 1)]  # an unassigned clip of a test speaker is test, too
    splits = assign(clips, SHARES, 1).splits
    assert Counter(splits.values()) == {"train": 80, "dev": 10, "test": 10}
    assert [splits["c", f"s{s}"] for s in range(3)] == list(SPLITS)


def test_a_speaker_counts_in_the_band_of_most_clips():
    clips = [clip(s, n, band="30s" if n else "20s") for s in range(20) for n in range(3)]
    assert Counter(assign(clips, SHARES, 1).splits.values())["dev"] == 2


@pytest.mark.parametrize("shares", [(0.5, 0.1, 0.1), (1.1, 0, -0.1)])
def test_shares_must_be_shares(shares):
    with pytest.raises(ValueError, match="splits"):
        assign([], dict(zip(SPLITS, shares, strict=True)), 1)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=9), st.integers(0, 5), st.randoms())
def test_the_cap_keeps_so_many_of_each_whatever_the_order(sizes, most, random):
    clips = [clip(s, n) for s, size in enumerate(sizes) for n in range(size)]
    kept = cap(clips, most, seed=3)
    count = Counter(int(one.utterance.speaker[1:]) for one in kept)
    assert count == {s: min(size, most) if most else size for s, size in enumerate(sizes)}
    assert kept == [one for one in clips if one in kept]
    random.shuffle(clips)
    assert {one.id for one in cap(clips, most, seed=3)} == {one.id for one in kept}
