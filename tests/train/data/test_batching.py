import logging

import numpy as np
import pytest
import torch

from model.classifier import BLOCK
from model.labels import DEFAULT_TREE
from streamer.audio.speech_gate import speech_of
from train.corpora.utterance import Utterance
from train.data.batching import (
    UNKNOWN,
    Example,
    TelephoneDataset,
    collate,
    evaluation_batches,
    targets_of,
    training_batches,
)
from train.data.channel_sampler import ChannelSampler
from train.data.dataset import audio_of, open_data, open_split
from train.data.sampling import Sampling

CROP = (0.5, 0.5)


def utterance(gender="female", band="40s"):
    return Utterance("u", "c", "s", gender, "u.wav", age_band=band)


def calls(**changes):
    return TelephoneDataset(
        DEFAULT_TREE, **{"channel": ChannelSampler("simple"), "seed": 1, **changes}
    )


def test_targets():
    assert targets_of(utterance(), DEFAULT_TREE) == {"gender": 0, "age_group": 2, "age_band": 4}
    unknown = targets_of(utterance(band=""), DEFAULT_TREE)
    assert (unknown["age_group"], unknown["age_band"]) == (UNKNOWN, UNKNOWN)


@pytest.mark.parametrize(("gender", "band"), [("other", "40s"), ("female", "35-44")])
def test_foreign_labels_are_named(gender, band):
    with pytest.raises(ValueError, match=r"other|35-44"):
        targets_of(utterance(gender, band), DEFAULT_TREE)


def test_an_example_is_what_the_server_would_hear(prepared):
    for cut in open_data(prepared, "dev"):
        heard = calls(channel=None).example(cut).speech
        np.testing.assert_array_equal(heard, speech_of(audio_of(cut, 8000)))


def test_the_clean_twin_comes_along_untouched(prepared):
    for cut in open_data(prepared, "dev"):
        example = calls(clean_rate=16000).example(cut)
        np.testing.assert_array_equal(example.clean, audio_of(cut, 16000))
    split = open_split(prepared, "train")
    twin = calls(clean_rate=16000, clean_crop=1.5, crop=CROP)
    batch = next(iter(training_batches(split, twin, Sampling(batch_size=4), steps=1)))
    assert batch.clean.shape[0] == 4
    assert batch.clean_lengths.max() <= 24000
    assert batch.samples.shape[1] == -(-int(CROP[1] * 8000) // BLOCK) * BLOCK


def test_crops_have_the_asked_length_and_vary_by_epoch(prepared):
    cut = next(iter(open_data(prepared, "train")))
    first = calls().example(cut, 0.5).speech
    assert len(first) == 4000
    np.testing.assert_array_equal(first, calls().example(cut, 0.5).speech)
    assert (first != calls(epoch=1).example(cut, 0.5).speech).any()


def test_short_speech_is_repeated_to_the_length_of_its_batch(prepared):
    cut = next(iter(open_data(prepared, "train")))
    whole = calls(channel=None).example(cut).speech
    longer = calls(channel=None).example(cut, 2.5 * len(whole) / 8000).speech
    assert len(longer) == round(2.5 * len(whole))
    np.testing.assert_array_equal(longer[: len(whole)], longer[len(whole) : 2 * len(whole)])


def test_a_batch_draws_one_length_within_the_bounds(prepared):
    split = open_split(prepared, "train")
    lengths = set()
    for epoch in range(3):
        cropped = calls(channel=None, crop=(0.5, 2.0), epoch=epoch)
        for batch in training_batches(split, cropped, Sampling(batch_size=4), steps=4):
            assert len(set(batch.lengths.tolist())) == 1
            lengths.add(batch.lengths[0].item())
    assert len(lengths) > 6
    assert 4000 <= min(lengths) < max(lengths) <= 16000


def test_workers_do_not_change_the_batches(prepared):
    split = open_split(prepared, "train")
    runs = [
        list(
            training_batches(
                split, calls(crop=CROP), Sampling(batch_size=5), steps=4, workers=workers
            )
        )
        for workers in (0, 2)
    ]
    for a, b in zip(*runs, strict=True):
        assert a.ids == b.ids
        assert torch.equal(a.samples, b.samples)


def test_collate_pads_to_whole_blocks():
    speech = [np.full(n, 16384, np.int16) for n in (BLOCK + 1, 10)]
    targets = {"gender": 0, "age_group": 1, "age_band": UNKNOWN}
    batch = collate({str(len(s)): Example(s, None, targets) for s in speech})
    assert batch.samples.shape == (2, 2 * BLOCK)
    assert batch.lengths.tolist() == [BLOCK + 1, 10]
    assert batch.samples[1].tolist()[:11] == [0.5] * 10 + [0.0]
    assert batch.targets["age_band"].tolist() == [UNKNOWN, UNKNOWN]
    assert batch.clean is None


def test_evaluation_sees_every_utterance_once_and_the_longest_first(prepared):
    split = open_split(prepared, "dev")
    batches = evaluation_batches(split, calls(), batch_size=4)
    ids = [one for batch in batches for one in batch.ids]
    assert sorted(ids) == sorted(cut.id for cut in open_data(prepared, "dev"))
    longest = [batch.lengths.max().item() for batch in batches]
    assert longest == sorted(longest, reverse=True)
    assert sum(len(b.ids) for b in evaluation_batches(split, calls(), limit=3)) == 3


def test_an_utterance_that_cannot_be_decoded_is_left_out_and_named(make_prepared, tmp_path, caplog):
    prepared = make_prepared(tmp_path / "corpus", count=8)
    victim = next(iter(open_data(prepared, "train")))
    with open(victim.recording.sources[0].source, "r+b") as file:  # noqa: PTH123
        file.truncate(10)
    split = open_split(prepared, "train")
    with caplog.at_level(logging.WARNING):
        batches = list(
            training_batches(split, calls(crop=CROP), Sampling(batch_size=4, buffer=16), steps=12)
        )
    assert len(batches) == 12
    assert all(victim.id not in one for batch in batches for one in batch.ids)
    assert victim.id in caplog.text
    ids = [one for batch in evaluation_batches(split, calls()) for one in batch.ids]
    assert len(ids) == 7
    assert victim.id not in ids
