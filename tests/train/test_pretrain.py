"""A teacher's training, end to end at a tiny size."""

import json

import pytest
import torch

from train.checkpoint import load_student
from train.pretrain import Pretrain, pretrain


def test_a_run_ends_in_a_teacher_that_hears_whole_wideband_utterances(teacher_run):
    teacher = load_student(teacher_run)
    assert not teacher.training
    assert teacher.config.sample_rate == 16000
    assert not teacher.config.encoder.causal
    assert teacher.config.heads.embedding == 12
    samples = 0.1 * torch.randn(2, 20000)
    with torch.no_grad():
        output = teacher(samples, torch.tensor([20000, 9000]))
    assert output.embedding.shape == (2, 1, 12)
    assert torch.equal(output.block_mask, torch.ones(2, 1, dtype=torch.bool))


def test_dev_scores_stand_beside_the_checkpoint_without_paths(teacher_run):
    text = (teacher_run / "dev.json").read_text()
    report = json.loads(text)
    assert set(report["scores"]) == {"gender", "age_group", "age_band"}
    assert 0 <= report["scores"]["gender"]["f1"] <= 1
    assert report["data"] == {"made": "CC0"}
    assert str(teacher_run.parent) not in text
    words = report["settings"]
    assert words[words.index("--embedding") + 1] == "12"
    again = Pretrain(_cli_parse_args=["--data", "d", "--out", "o", *words])
    assert (again.backbone, again.width, again.epochs) == ("ecapa", 16, 2)


def test_the_log_has_a_line_per_epoch_with_every_task(teacher_run):
    lines = [json.loads(line) for line in (teacher_run / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert list(lines[0]["loss"]) == ["gender", "age_group", "age_band"]


def test_by_default_it_is_the_papers_encoder():
    settings = Pretrain(_cli_parse_args=["--data", "d", "--out", "o"])
    encoder = settings.encoder()
    assert (encoder.channels, encoder.res2_scale, encoder.aggregated) == (512, 8, 1536)
    assert (encoder.causal, encoder.global_context, encoder.stem_stride) == (False, True, 1)
    assert settings.embedding == 192


def test_a_streaming_teacher_is_refused(sharded, tiny, tmp_path):
    settings = Pretrain(_cli_parse_args=tiny(sharded, tmp_path / "x", "--streaming"))
    with pytest.raises(SystemExit, match=r"pretrain: --streaming: .*16 kHz.*train\.distill"):
        settings.cli_cmd()
    assert not (tmp_path / "x").exists()


def test_a_run_again_adds_nothing(sharded, tiny, teacher_run, tmp_path):
    (tmp_path / "last.pt").write_bytes((teacher_run / "last.pt").read_bytes())
    flags = ("--backbone", "ecapa", "--embedding", 12, "--epochs", 2)
    teacher = pretrain(Pretrain(_cli_parse_args=tiny(sharded, tmp_path, *flags)))
    assert (tmp_path / "last.pt").read_bytes() == (teacher_run / "last.pt").read_bytes()
    log = (tmp_path / "log.jsonl").read_text()  # made again from the checkpoint
    assert log == (teacher_run / "log.jsonl").read_text()
    expected = load_student(teacher_run).state_dict()
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, expected[name]), name
