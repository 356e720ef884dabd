"""Checkpoints: the network that comes back, and what is said of those that are none."""

import pytest
import torch

from model.classifier import SpeakerClassifier, StudentConfig
from model.encoders.ecapa import EcapaConfig
from model.heads import HeadsConfig
from train.checkpoint import load_student, save

SMALL = StudentConfig(encoder=EcapaConfig(channels=24), heads=HeadsConfig(embedding=16))


@pytest.fixture(scope="module")
def student():
    torch.manual_seed(1)
    return SpeakerClassifier(SMALL).eval()


@pytest.fixture
def run(student, tmp_path):
    """Folder of a run."""
    state = {"best": {"weights": student.state_dict()}, "config": SMALL.to_dict(), "epoch": 1}
    save(tmp_path / "last.pt", state)
    return tmp_path


@pytest.mark.parametrize("path", [".", "last.pt"])
def test_a_checkpoint_comes_back_as_the_student_by_folder_or_by_file(student, run, path):
    loaded = load_student(run / path)
    assert not loaded.training
    assert loaded.config == SMALL
    for name, value in student.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_saving_leaves_nothing_but_the_checkpoint(run):
    assert [path.name for path in run.iterdir()] == ["last.pt"]


def test_weights_of_another_network_are_refused(student, tmp_path):
    other = {**SMALL.to_dict(), "heads": {"embedding": 8}}
    save(tmp_path / "d.pt", {"best": {"weights": student.state_dict()}, "config": other})
    with pytest.raises(ValueError, match=r"d\.pt: weights of another network"):
        load_student(tmp_path / "d.pt")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint at all"])
def test_what_is_no_checkpoint_is_refused(tmp_path, content):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.pt: no checkpoint"):
        load_student(tmp_path / "x.pt")


def test_half_a_checkpoint_is_refused(run):
    content = (run / "last.pt").read_bytes()
    (run / "last.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"last\.pt: no checkpoint"):
        load_student(run)


def test_a_run_without_a_finished_epoch_has_no_best_weights(tmp_path):
    save(tmp_path / "x.pt", {"best": {"score": -1.0}, "config": SMALL.to_dict()})
    with pytest.raises(ValueError, match="'weights'"):
        load_student(tmp_path / "x.pt")


def test_a_folder_without_a_checkpoint_is_named(tmp_path):
    with pytest.raises(OSError, match=r"last\.pt"):
        load_student(tmp_path)
