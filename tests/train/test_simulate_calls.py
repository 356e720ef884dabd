import json
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import soundfile
from lhotse import CutSet

from model.labels import DEFAULT_TREE
from train.data import batching as loader
from train.data.babble import BabblePool
from train.data.batching import TelephoneDataset, evaluation_batches, training_batches
from train.data.channel_sampler import ChannelSampler
from train.data.dataset import audio_of, open_split, plain_id, speaker_clips, utterance_of
from train.data.sampling import Draws, Sampling, expected_copies
from train.simulate_calls import SimulateCalls, degrade

COPIES = 2


def words(data, out, **changes):
    settings = {"copies": COPIES, "channel": "full", "clips": 3, "workers": 1, **changes}
    flags = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    return [str(data), str(out), *flags]


def run(data, out, **changes):
    return degrade(SimulateCalls(_cli_parse_args=words(data, out, **changes)))


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def cuts(folder, split):
    return {cut.id: cut for cut in open_split(folder, split).cuts()}


@pytest.fixture(scope="module")
def degraded(sharded, tmp_path_factory):
    folder = tmp_path_factory.mktemp("calls")
    run(sharded, folder)
    return folder


@pytest.fixture(scope="module")
def calls(sharded):
    """As training with the same seed and channel has them."""
    lines = ChannelSampler("full", BabblePool.of(open_split(sharded, "train")))
    return TelephoneDataset(DEFAULT_TREE, lines, seed=1)


def test_dev_is_what_evaluation_would_have_heard(sharded, degraded, calls):
    def rows(batches):
        return {
            name: (row[:n].tolist(), *(int(batch.targets[task][i]) for task in batch.targets))
            for batch in batches
            for i, (name, row, n) in enumerate(
                zip(batch.ids, batch.samples, batch.lengths.tolist(), strict=True)
            )
            if n
        }

    expected = rows(evaluation_batches(open_split(sharded, "dev"), calls))
    # whatever telephone a run names: these calls have theirs behind them
    other = TelephoneDataset(DEFAULT_TREE, ChannelSampler("simple"), seed=7)
    assert rows(evaluation_batches(open_split(degraded, "dev"), other)) == expected


def test_each_copy_is_another_draw_of_the_same_utterance(sharded, degraded, calls):
    before, after = cuts(sharded, "train"), cuts(degraded, "train")
    assert Counter(map(plain_id, after)) == dict.fromkeys(before, COPIES)
    for name, cut in after.items():
        original = before[plain_id(name)]
        was, now = utterance_of(original), utterance_of(cut)
        assert now == replace(
            was, id=now.id, source=now.source, line="call", seconds=cut.recording.duration
        )
        assert cut.supervisions[0].speaker == original.supervisions[0].speaker
        assert speaker_clips(cut) == speaker_clips(original)
        np.testing.assert_array_equal(
            audio_of(cut, 8000), calls.example(replace(original, id=name)).speech
        )
    for name in before:
        first, second = (audio_of(after[f"{name}~{copy}"], 8000) for copy in range(COPIES))
        assert len(first) != len(second) or (first != second).any()


def test_a_call_goes_through_neither_telephone_nor_gate_again(degraded, monkeypatch):
    def never(*_):
        raise AssertionError

    monkeypatch.setattr(loader, "speech_of", never)
    again = TelephoneDataset(DEFAULT_TREE, never, seed=1)
    for cut in open_split(degraded, "train").cuts():
        heard = audio_of(cut, 8000)
        np.testing.assert_array_equal(again.example(cut).speech, heard)
        longer = again.example(cut, 2 * len(heard) / 8000).speech
        np.testing.assert_array_equal(longer, np.concatenate([heard, heard]))
        assert len(again.example(cut, 0.3).speech) == 2400


def test_training_reads_calls_like_any_other_folder(degraded):
    split = open_split(degraded, "train")
    plain = TelephoneDataset(DEFAULT_TREE, None, seed=1, crop=(0.5, 1.0))
    for batch in training_batches(split, plain, Sampling(batch_size=4), steps=5):
        assert len(set(batch.lengths.tolist())) == 1
        assert {name.split("#")[0] for name in batch.ids} <= {cut.id for cut in split.cuts()}


def test_there_is_no_undegraded_twin(degraded):
    cut = next(iter(open_split(degraded, "dev").cuts()))
    with pytest.raises(ValueError, match=rf"{cut.id}: no undegraded twin .*clean_rate=16000"):
        TelephoneDataset(DEFAULT_TREE, None, seed=1, clean_rate=16000).example(cut)


def test_every_speaker_keeps_the_weight_in_an_epoch_of_the_same_steps(sharded, degraded):
    def weight_of_speakers(folder, passes):
        split = open_split(folder, "train")
        expected = expected_copies(split, 0.5)
        weights = Counter()
        for cut in split.cuts():
            weights[cut.supervisions[0].speaker] += expected(cut) / passes
        return weights

    assert weight_of_speakers(degraded, COPIES) == pytest.approx(weight_of_speakers(sharded, 1))


def test_a_pass_hears_every_utterance_once_before_any_twice(sharded, degraded):
    everyone = cuts(sharded, "train").keys()
    split = open_split(degraded, "train")
    sampling = Sampling(batch_size=4, balance=0.0)
    firsts = set()
    for epoch in range(6):
        drawn = [
            cut.id.split("#")[0] for cut in islice(Draws(split, sampling, epoch), len(everyone))
        ]
        assert {plain_id(name) for name in drawn} == everyone
        firsts |= {name.split("~")[1] for name in drawn}
    assert firsts == {"0", "1"}


def test_a_doubted_label_excludes_all_copies(degraded):
    split = open_split(degraded, "train")
    victim = plain_id(next(iter(split.cuts())).id)
    sampling = Sampling(batch_size=4, weights={victim: 0.0})
    assert all(plain_id(cut.id) != victim for cut in islice(Draws(split, sampling, 0), 200))


def test_nobody_is_heard_talking_behind_finished_calls(sharded, degraded):
    assert not BabblePool.of(open_split(degraded, "train")).speech
    both = BabblePool.of(open_split([degraded, sharded], "train"))
    assert both.speakers == BabblePool.of(open_split(sharded, "train")).speakers


# lhotse's own reader leaves the archives open
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_lhotse_reads_the_shards_too(degraded):
    fields = {
        "cuts": sorted((degraded / "dev").glob("cuts.*")),
        "recording": sorted((degraded / "dev").glob("recording.*")),
    }
    found = {cut.id: cut for cut in CutSet.from_shar(fields=fields)}
    for name, cut in cuts(degraded, "dev").items():
        np.testing.assert_array_equal(
            found[name].load_audio()[0] * 32768, audio_of(cut, 8000).astype(float)
        )


def test_killed_and_run_again_with_more_workers_it_writes_the_same_bytes(
    sharded, degraded, tmp_path
):
    out = tmp_path / "calls"
    command = [sys.executable, "-m", "train.simulate_calls", *words(sharded, out, workers=2)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while not list(out.glob("train/cuts.*")):
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    finished = {path: path.stat().st_mtime_ns for path in out.glob("train/cuts.*")}
    assert not (out / "index.json").exists()
    run(sharded, out, workers=2)
    assert contents(out) == contents(degraded)
    assert not list(out.rglob(".partial*"))
    assert all(path.stat().st_mtime_ns == written for path, written in finished.items())


def test_other_arguments_are_refused_by_name(sharded, degraded, tmp_path):
    with pytest.raises(ValueError, match=r"other settings: copies 2, not 3; seed 1, not 5"):
        run(sharded, degraded, copies=3, seed=5)
    with pytest.raises(ValueError, match="neither"):
        run(tmp_path, tmp_path / "out")


def test_copies_are_not_copied_again(degraded, tmp_path):
    with pytest.raises(ValueError, match=r"~0: ends as only the id of a copy may"):
        run(degraded, tmp_path / "out")


def test_what_has_no_speech_or_no_audio_is_left_out_and_listed(make_prepared, tmp_path, capsys):
    prepared = make_prepared(tmp_path / "corpus", count=8)
    silent, broken, *_ = open_split(prepared, "train").cuts()
    source = silent.recording.sources[0].source
    soundfile.write(source, np.zeros(silent.recording.num_samples, np.int16), 16000)
    with open(broken.recording.sources[0].source, "r+b") as file:  # noqa: PTH123
        file.truncate(10)
    out = tmp_path / "calls"
    SimulateCalls(_cli_parse_args=words(prepared, out, channel="clean")).cli_cmd()
    assert f"{2 * COPIES} left out" in capsys.readouterr().out.replace("\n", " ")
    assert json.loads((out / "index.json").read_text())["rejected"] == 2 * COPIES
    rejected = [
        json.loads(line)
        for path in sorted(out.glob("train/rejected.*"))
        for line in path.read_text().splitlines()
    ]
    assert {row["id"]: row["source"] for row in rejected} == {
        f"{cut.id}~{copy}": cut.recording.sources[0].source
        for cut in (silent, broken)
        for copy in range(COPIES)
    }
    reasons = {row["id"]: row["reason"] for row in rejected}
    assert reasons[f"{silent.id}~0"] == "no speech in the call"
    assert {plain_id(name) for name in cuts(out, "train")} == {
        cut.id for cut in open_split(prepared, "train").cuts()
    } - {silent.id, broken.id}
    assert open_split(out, "train").clips == 6 * COPIES
