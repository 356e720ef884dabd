from collections import Counter
from itertools import islice

import pytest

from train.loading.data import open_data, open_split
from train.loading.sampling import Draws, EpochSampler, Sampling, expected_copies


def ids(batches):
    return [[cut.id for cut in batch] for batch in batches]


def original(cut_id):
    return cut_id.rsplit("#", 1)[0]


@pytest.fixture(scope="module")
def split(sharded):
    return open_split(sharded, "train")


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_copies_average_to_one_and_even_out_the_cells(prepared, balance):
    split = open_split(prepared, "train")
    expected = expected_copies(split, balance)
    cuts = list(open_data(prepared, "train"))
    assert sum(expected(cut) for cut in cuts) == pytest.approx(len(cuts))
    mass = Counter()
    for cut in cuts:
        mass[cut.supervisions[0].gender, cut.supervisions[0].custom["age_band"]] += expected(cut)
    if balance == 1.0:  # cells still differ by their speakers' clips alone
        clips = {key: cell.mass / cell.clips for key, cell in split.cells.items()}
        ratios = [mass[key] / clips[key] for key in mass]
        assert ratios == pytest.approx([ratios[0]] * len(ratios))


def test_draws_follow_the_expectation(split):
    sampling = Sampling(batch_size=4, balance=1.0, seed=3)
    n = 4000
    drawn = Counter(original(cut.id) for cut in islice(Draws(split, sampling, 0), n))
    expected = expected_copies(split, 1.0)
    for shard in split.shards:
        for cut in shard.read():
            mean = expected(cut) * n / split.clips
            assert drawn[cut.id] == pytest.approx(mean, abs=5 * mean**0.5 + 2), cut.id


def test_an_excluded_utterance_is_never_drawn(split):
    victim = next(split.shards[0].read()).id
    sampling = Sampling(batch_size=4, weights={victim: 0.0})
    drawn = {original(cut.id) for cut in islice(Draws(split, sampling, 0), 500)}
    assert victim not in drawn
    assert len(drawn) == split.clips - 1


def test_nothing_to_draw_is_said_instead_of_looping_for_ever(split):
    weights = {cut.id: 0.0 for shard in split.shards for cut in shard.read()}
    with pytest.raises(ValueError, match="rank 0 of 1 draws no utterance"):
        next(iter(Draws(split, Sampling(batch_size=4, weights=weights), 0)))


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("kind", ["prepared", "sharded"])
def test_ranks_share_a_pass_without_overlap(request, kind, world):
    split = open_split(request.getfixturevalue(kind), "train")
    seen = []
    for rank in range(world):
        draws = Draws(split, Sampling(batch_size=4, balance=0.0, rank=rank, world=world), 7)
        seen.append({cut.id for cut in draws._pass(0)})
    every = {cut.id for cut in Draws(split, Sampling(batch_size=4, balance=0.0), 7)._pass(0)}
    assert set().union(*seen) == every
    assert sum(map(len, seen)) == len(every)


def test_the_same_epoch_is_the_same_batches_and_another_is_not(split):
    sampling = Sampling(batch_size=4, seed=5)
    first = ids(EpochSampler(split, sampling, 1, steps=6))
    assert first == ids(EpochSampler(split, sampling, 1, steps=6))
    assert first != ids(EpochSampler(split, sampling, 2, steps=6))
    assert all(len(batch) == 4 for batch in first)


def test_going_on_in_mid_epoch_gives_the_remaining_batches(split):
    sampling = Sampling(batch_size=4, seed=5)
    whole = ids(EpochSampler(split, sampling, 1, steps=6))
    rest = EpochSampler(split, sampling, 1, steps=6, start=4)
    assert len(rest) == 2
    assert ids(rest) == whole[4:]


def test_batches_keep_to_one_length_bucket(split):
    sampling = Sampling(batch_size=3, bins=(1.5,), seed=2)
    for batch in EpochSampler(split, sampling, 0, steps=8):
        assert len({cut.duration < 1.5 for cut in batch}) == 1
