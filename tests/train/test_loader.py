import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from model.labels import DEFAULT_TREE
from model.student import BLOCK
from streamer.vad import speech_of
from train.corpus import Utterance
from train.loader import (
    UNKNOWN,
    BalancedSampler,
    CallDataset,
    collate,
    evaluation_batches,
    sampling_weights,
    targets_of,
)


def utterance(manifest, gender="female", band="40s", speaker="s", corpus="c"):
    return Utterance("u", corpus, speaker, gender, band, "train", manifest)


def test_targets(manifest):
    assert targets_of(utterance(manifest), DEFAULT_TREE) == {
        "gender": 0,
        "age_group": 2,
        "age_band": 4,
    }
    unknown = targets_of(utterance(manifest, band=""), DEFAULT_TREE)
    assert (unknown["age_group"], unknown["age_band"]) == (UNKNOWN, UNKNOWN)


@pytest.mark.parametrize(("gender", "band"), [("other", "40s"), ("female", "35-44")])
def test_foreign_labels_are_named(manifest, gender, band):
    with pytest.raises(ValueError, match=r"other|35-44"):
        targets_of(utterance(manifest, gender, band), DEFAULT_TREE)


def test_an_example_is_what_the_server_would_hear(corpus):
    plain = CallDataset(corpus, DEFAULT_TREE, seed=1, crop_seconds=None, degrade=False)
    np.testing.assert_array_equal(plain[3][0], speech_of(corpus.samples(3)))


def test_crops_have_the_asked_length_and_vary_by_epoch(corpus):
    dataset = CallDataset(corpus, DEFAULT_TREE, seed=1, crop_seconds=0.5)
    first = dataset[0][0]
    assert len(first) == 4000
    np.testing.assert_array_equal(first, dataset[0][0])
    dataset.epoch = 1
    assert (first != dataset[0][0]).any()


def test_workers_do_not_change_the_batches(corpus):
    dataset = CallDataset(corpus, DEFAULT_TREE, seed=1, crop_seconds=0.5)
    alone = list(DataLoader(dataset, batch_size=5, collate_fn=collate))
    shared = list(DataLoader(dataset, batch_size=5, collate_fn=collate, num_workers=2))
    for a, b in zip(alone, shared, strict=True):
        assert torch.equal(a.samples, b.samples)
        assert torch.equal(a.rows, b.rows)


def test_collate_pads_to_whole_blocks():
    speech = [np.full(n, 16384, np.int16) for n in (BLOCK + 1, 10)]
    targets = {"gender": 0, "age_group": 1, "age_band": UNKNOWN}
    batch = collate([(s, targets, i) for i, s in enumerate(speech)])
    assert batch.samples.shape == (2, 2 * BLOCK)
    assert batch.lengths.tolist() == [BLOCK + 1, 10]
    assert batch.samples[1].tolist()[:11] == [0.5] * 10 + [0.0]
    assert batch.targets["age_band"].tolist() == [UNKNOWN, UNKNOWN]


def test_sampling_weights_by_hand(manifest):
    rows = [
        *(utterance(manifest, "male", "20s", speaker="talker") for _ in range(4)),
        utterance(manifest, "female", "20s", speaker="other"),
    ]
    flat = sampling_weights(rows, 0.0)
    assert flat.tolist() == pytest.approx([0.5 / 3] * 4 + [1 / 3])  # 4 clips count as 2
    even = sampling_weights(rows, 1.0)
    assert even[4] / even[0] == pytest.approx(8.0)  # 4 from the cell, 2 from the speaker
    assert even.sum() == pytest.approx(1.0)


def test_sampler_repeats_and_changes_with_the_epoch():
    sampler = BalancedSampler(np.array([0.0, 0.5, 0.5]), seed=3)
    first = list(sampler)
    assert first == list(sampler)
    assert 0 not in first
    longer = BalancedSampler(np.full(100, 0.01), seed=3)
    before = list(longer)
    longer.epoch = 1
    assert before != list(longer)


def test_evaluation_sees_every_utterance_once(corpus):
    dataset = CallDataset(corpus, DEFAULT_TREE, seed=0, crop_seconds=None)
    rows = [row for batch in evaluation_batches(dataset, 6) for row in batch.rows.tolist()]
    assert sorted(rows) == list(range(len(corpus)))
