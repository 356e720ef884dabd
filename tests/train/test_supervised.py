"""Training end to end on the made corpus, at a tiny size."""

import json

import onnxruntime
import pytest
import torch

from model.export import METADATA_KEY
from streamer.student import Student as ServedStudent
from train.augment import ChannelTilt, FrequencyMask
from train.supervised import Supervised, Trainer


def settings(data, out, **changes):
    return Supervised(
        data=[str(data)], out=out, batch_size=8, shortest_crop=0.8, longest_crop=0.8, seed=5,
        **{"epochs": 2, **changes},
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(sharded, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    Trainer(settings(sharded, out)).train()
    return out


def test_a_run_ends_in_a_file_that_the_server_loads(finished):
    student = ServedStudent(finished / "student.onnx", provider="cpu")
    provenance = student.metadata.provenance
    assert provenance["settings"]["seed"] == 5
    assert provenance["data"] == {"made": "CC0"}
    assert provenance["settings"]["best_epoch"] in {1, 2}
    assert provenance["settings"]["doubted_labels"] == 0
    assert "corpus_probe" in provenance["shortcut"]
    assert "data" not in provenance["settings"]
    assert set(student.metadata.decision) == {"gender", "age_group", "age_band"}
    raw = onnxruntime.InferenceSession(
        str(finished / "student.onnx"), providers=["CPUExecutionProvider"]
    )
    text = raw.get_modelmeta().custom_metadata_map[METADATA_KEY]
    assert str(finished.parent) not in text


def test_log_has_a_line_per_epoch(finished):
    lines = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert all(0 <= line["dev_f1"]["gender"] <= 1 for line in lines)


def test_an_interrupted_run_continues_to_the_same_weights(finished, sharded, tmp_path):
    trainer = Trainer(settings(sharded, tmp_path))
    trainer.train_one()
    del trainer
    Trainer(settings(sharded, tmp_path)).train()
    ours = torch.load(tmp_path / "last.pt", weights_only=True)["averaged"]
    reference = torch.load(finished / "last.pt", weights_only=True)["averaged"]
    assert ours.keys() == reference.keys()
    for name, value in reference.items():
        torch.testing.assert_close(ours[name], value, msg=name)


def test_training_learns(sharded, tmp_path):
    trainer = Trainer(settings(sharded, tmp_path, epochs=6, learning_rate=5e-3))
    losses = [trainer.train_one()["loss"]["gender"] for _ in range(6)]
    assert losses[-1] < 0.75 * losses[0]


def test_a_killed_save_leaves_the_last_checkpoint(finished, monkeypatch, sharded):
    before = (finished / "last.pt").read_bytes()
    trainer = Trainer(settings(sharded, finished))
    monkeypatch.setattr("torch.save", lambda _, path: path.write_bytes(b"half"))
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: pytest.fail("killed"))
    with pytest.raises(pytest.fail.Exception):
        trainer.save()
    assert (finished / "last.pt").read_bytes() == before


def test_frequency_mask_flattens_whole_bands():
    torch.manual_seed(0)
    features = torch.randn(4, 6, 80)
    masked = FrequencyMask(masks=1, widest=10)(features)
    changed = (masked != features).all(dim=1)
    assert changed.any()
    assert changed.sum(dim=1).max() <= 10
    flat = masked.std(dim=1) < 1e-6
    assert torch.equal(flat, changed)


def test_channel_tilt_is_a_constant_smooth_gain_per_utterance():
    torch.manual_seed(0)
    gain = ChannelTilt(80)(torch.zeros(64, 5, 80))
    assert torch.equal(gain[:, 0], gain[:, 4])
    assert gain[:, 0].diff(dim=1).abs().max() < 0.2
    assert gain.std() == pytest.approx(3.0 * 0.2303 * 0.84, rel=0.3)


def test_the_best_epoch_on_dev_is_what_is_released(sharded, tmp_path, monkeypatch):
    trainer = Trainer(settings(sharded, tmp_path, epochs=3))
    scores = iter([0.2, 0.9, 0.4])

    def scored(*_):
        value = next(scores)
        return {task: {"f1": value, "ece": 0.0} for task in ("gender", "age_group", "age_band")}

    monkeypatch.setattr("train.supervised.summary", scored)
    kept = []
    for _ in range(3):
        trainer.train_one()
        kept.append({k: v.clone() for k, v in trainer.averaged.module.state_dict().items()})
    assert trainer.best["epoch"] == 2
    for name, value in kept[1].items():
        assert torch.equal(trainer.best["weights"][name], value), name
    resumed = Trainer(settings(sharded, tmp_path, epochs=3))
    resumed.resume()
    assert resumed.best["epoch"] == 2
