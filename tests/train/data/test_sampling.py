from collections import Counter
from itertools import islice

import pytest

from train.data.dataset import Shard, Split, open_data, open_split, plain_id
from train.data.sampling import Draws, EpochSampler, Sampling, expected_copies, generator


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


@pytest.mark.parametrize("name", ["made/train-3", "made/a#b~c", "made/1.0"])
def test_the_id_in_the_corpus_is_found_again(name):
    assert plain_id(name) == name
    assert plain_id(f"{name}~2") == name
    assert plain_id(f"{name}#0.1") == name
    assert plain_id(f"{name}~12#3.4") == name


def test_shards_of_one_draw_come_in_any_order():
    split = Split([Shard(str(n)) for n in range(9)])
    orders = [Draws(split, Sampling(batch_size=4, seed=3), 5)._order(lap) for lap in (0, 1)]
    assert orders[0] == generator(3, 5, 0).permutation(9).tolist()
    assert orders[0] != orders[1]


def test_draws_of_the_same_utterances_are_spread_over_the_pass():
    single = [Shard(f"single {n}") for n in range(6)]
    triple = [Shard(f"{n}", None, draw, 3) for draw in range(3) for n in range(4)]
    split = Split(single + triple)
    for lap in range(5):
        order = Draws(split, Sampling(batch_size=4), 0)._order(lap)
        assert sorted(order) == list(range(18))
        drawn = [split.shards[i] for i in order if split.shards[i].draws == 3]
        for third in (drawn[:4], drawn[4:8], drawn[8:]):
            assert {shard.cuts for shard in third} == {"0", "1", "2", "3"}
            assert len({shard.draw for shard in third}) == 1


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
