"""Students of every preset, end to end at a tiny size: trained, calibrated, exported, explained."""

import json
from dataclasses import fields, replace
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch
from lhotse import CutSet

from model.classifier import BLOCK
from model.export import METADATA_KEY
from model.labels import DEFAULT_TREE, TASKS
from streamer.inference.model import OnnxModel as ServedStudent
from train.checkpoint import load_student
from train.data.dataset import open_split
from train.distill import PRESETS, Distill, dictionary, distill
from train.method.objective import Objective
from train.method.teacher import embeddings_of
from train.method.training_step import TrainingStep
from train.trainer.trainer import Trainer

SUPERVISED = ["gender", "age_group", "age_band"]
CAUSAL = ["dependency", "invariance", "glance_gender", "glance_age_band"]
TERMS = {
    "base": SUPERVISED,
    "mkd-mse": ["distillation", *SUPERVISED],
    "mkd-cos": ["distillation", *SUPERVISED],
    "ch": [*SUPERVISED, *CAUSAL],
    "mkd+ch": ["distillation", *SUPERVISED, *CAUSAL],
}
FREE = {"data", "out", "teacher", "accelerator", "threads"}
"""Of a command line that is to be reproduced: where and on which machine."""


@pytest.fixture(scope="module")
def words(sharded, teacher_run, tiny):
    """Command line of a run on the made corpus."""

    def make(out, *flags):
        return tiny(sharded, out, "--channel", "clean", "--teacher", teacher_run, *flags)

    return make


@pytest.fixture
def trained(words, tmp_path, monkeypatch):
    """Train, and say what would have been exported: an export takes ten seconds."""
    exports = []

    def export(student, path, *, calibration, provenance):
        exports.append(SimpleNamespace(student=student, path=path, provenance=provenance))
        assert set(calibration["calibration"]) == set(TASKS)

    monkeypatch.setattr("train.release.export.export", export)

    def run(*flags):
        distill(Distill(_cli_parse_args=words(tmp_path / "run", *flags)))
        (found,) = exports
        assert found.path == tmp_path / "run" / "student.onnx"
        return found

    return run


@pytest.fixture(scope="module")
def exported(words, tmp_path_factory):
    """Folder and command line of a finished run of everything; tests/model exports plain heads."""
    out = tmp_path_factory.mktemp("distill") / "run"
    line = words(out, "--preset", "mkd+ch", "--age-band-weight", 0.5)
    distill(Distill(_cli_parse_args=line))
    return out, line


def loss_of(out):
    """Terms of the last epoch."""
    return json.loads((out / "log.jsonl").read_text().splitlines()[-1])["loss"]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_trains_the_papers_terms_and_is_released(preset, trained, tmp_path):
    found = trained("--preset", preset, "--epochs", 2)
    loss = loss_of(tmp_path / "run")
    assert list(loss) == TERMS[preset]
    assert all(np.isfinite(value) for value in loss.values())
    assert found.provenance.items() >= PRESETS[preset].items()
    heads = found.student.config.heads
    causal = preset in {"ch", "mkd+ch"}
    assert (heads.hierarchy, heads.hidden, heads.knowledge) == (
        ("conveyed", 64, 12) if causal else ("separate", 0, 0)
    )
    assert not found.student.training
    report = json.loads((tmp_path / "run" / "dev.json").read_text())
    assert {"scores", "shortcut"} <= set(report)


def test_a_run_ends_in_a_file_that_the_server_loads(exported):
    out, _ = exported
    student = ServedStudent(out / "student.onnx", provider="cpu")
    assert set(student.metadata.decision) == set(TASKS)
    provenance = student.metadata.provenance
    assert provenance["seed"] == 1
    assert provenance["best_epoch"] == 1
    assert provenance["doubted_labels"] == 0
    assert provenance["data"] == {"made": "CC0"}
    assert set(provenance["dev_f1"]) == set(TASKS)
    assert "corpus_probe" in provenance["shortcut"]


def test_the_file_says_what_the_network_says_and_asks_no_teacher(exported):
    out, _ = exported
    served = ServedStudent(out / "student.onnx", provider="cpu")
    session = onnxruntime.InferenceSession(
        str(out / "student.onnx"), providers=["CPUExecutionProvider"]
    )
    assert {node.name for node in session.get_inputs()} == {"samples", "valid", "state"}
    student = load_student(out)
    torch.manual_seed(0)
    samples = 0.1 * torch.randn(3, 6 * BLOCK)
    with torch.no_grad():
        offline = student(samples, torch.full((3,), 6 * BLOCK))
    memory = served.metadata.fresh(3)
    valid = np.full(3, BLOCK, np.int64)
    for k in range(6):
        block = samples[:, k * BLOCK : (k + 1) * BLOCK].numpy()
        posteriors, memory = served.step(block, valid, memory)
        for task, posterior in zip(TASKS, posteriors, strict=True):
            expected = offline.logits[task][:, k].softmax(dim=1).numpy()
            np.testing.assert_allclose(posterior, expected, atol=1e-4)


def test_the_command_in_the_file_reproduces_the_settings(exported):
    out, line = exported
    command = ServedStudent(out / "student.onnx", provider="cpu").metadata.provenance["command"]
    assert command.startswith("python -m train.distill --")
    again = Distill(_cli_parse_args=["--data", "d", "--out", "o", *command.split()[3:]])
    reference = Distill(_cli_parse_args=line)
    assert again.model_dump(exclude=FREE) == reference.model_dump(exclude=FREE)
    assert again.age_band_weight == 0.5


def test_nothing_in_the_file_says_where_it_was_made(exported, sharded, teacher_run):
    content = (exported[0] / "student.onnx").read_bytes()
    for path in (exported[0], sharded, teacher_run, *exported[0].parents):
        if len(path.parts) > 2:
            assert str(path).encode() not in content
    assert b"site-packages" not in content
    assert METADATA_KEY.encode() in content


@pytest.mark.parametrize(
    "flags",
    [
        "",
        "--preset mkd-mse --no-mixup --distillation none",
        "--preset ch --mixup --knowledge none --hierarchy separate --invariance-weight 0",
        "--backbone resnet --width 8 --no-streaming --epochs 3 --learning-rate 1e-05 --seed 7",
        "--precision bf16-mixed --compile --epoch-clips 100 --gamma-negative 2 --margin 0",
    ],
)
def test_words_are_the_flags_that_reproduce_a_run(flags):
    settings = Distill(_cli_parse_args=["--data", "d", "--out", "o", *flags.split()])
    again = Distill(_cli_parse_args=["--data", "d", "--out", "o", *settings.to_cli_args()])
    assert again == settings
    assert len(settings.to_cli_args()) == len(flags.split())


def test_words_name_no_folder_and_nothing_of_the_machine():
    line = ["--data", "d", "--out", "o", "--teacher", "a/t", "--init", "/b/i", "--exclude", "c/e"]
    line += ["--clean-data", "c", "--workers", "2", "--threads", "1", "--accelerator", "cpu"]
    assert Distill(_cli_parse_args=[*line, "--hidden", "32"]).to_cli_args() == [
        *("--exclude", "e", "--init", "i", "--teacher", "t", "--hidden", "32")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "changed"),
    [
        ("--no-mixup", {"mixup": False}),
        ("--distillation none --age-loss asymmetric-single", {
            "distillation": "none", "age_loss": "asymmetric-single"
        }),
        ("--invariance-weight 0", {"invariance_weight": 0.0}),
        ("--hierarchy separate --knowledge mean --dependency smooth", {
            "hierarchy": "separate", "knowledge": "mean", "dependency": "smooth"
        }),
    ],
)  # fmt: skip
def test_a_flag_overrides_its_preset(flags, changed):
    settings = Distill(_cli_parse_args=["--data", "d", "--out", "o", *flags.split()])
    assert settings.resolved() == PRESETS["mkd+ch"] | changed
    objective = settings.objective()
    for name in {"distillation", "age_loss", "dependency", "invariance_weight"} & set(changed):
        assert getattr(objective, name) == changed[name]


def test_an_overridden_term_is_not_trained(trained, tmp_path):
    flags = ("--no-mixup", "--distillation", "none", "--knowledge", "none", "--dependency", "none")
    found = trained("--preset", "mkd+ch", *flags, "--invariance-weight", 0)
    assert list(loss_of(tmp_path / "run")) == SUPERVISED
    assert found.student.config.heads.hierarchy == "conveyed"  # which no flag overrode
    assert found.provenance["mixup"] is False


@pytest.mark.parametrize("preset", ["mkd-mse", "mkd-cos", "ch", "mkd+ch"])
def test_a_term_that_needs_a_teacher_asks_for_one(preset, sharded, tiny, tmp_path):
    settings = Distill(_cli_parse_args=tiny(sharded, tmp_path / "x", "--preset", preset))
    with pytest.raises(SystemExit, match=rf"distill: --preset {preset[:3]}.* needs a --teacher"):
        settings.cli_cmd()
    assert not (tmp_path / "x").exists()


def test_a_student_of_marginalised_groups_needs_probabilities(trained, words, tmp_path):
    flags = ("--preset", "ch", "--hierarchy", "marginalised")
    with pytest.raises(SystemExit, match=r"distill: --hierarchy marginalised .*asymmetric-single"):
        Distill(_cli_parse_args=words(tmp_path, *flags)).cli_cmd()
    found = trained(*flags, "--age-loss", "asymmetric-single")
    assert found.student.config.heads.hierarchy == "marginalised"
    assert "age_group" not in found.student.heads.classify


@pytest.fixture(scope="module")
def known(teacher_run, sharded):
    return embeddings_of(teacher_run, open_split(sharded, "train"), DEFAULT_TREE)


def test_knowledge_is_the_teachers_or_spoilt_for_comparison(known):
    expected = known.dictionary(14)
    assert torch.equal(dictionary(known, 14, "teacher", 1), expected)
    assert torch.equal(dictionary(known, 14, "zeroed", 1), torch.zeros(14, 12))
    mean = dictionary(known, 14, "mean", 1)
    torch.testing.assert_close(mean, expected.mean(dim=0).expand(14, 12))
    shuffled = dictionary(known, 14, "shuffled", 1)
    assert not torch.equal(shuffled, expected)
    assert sorted(shuffled.tolist()) == sorted(expected.tolist())
    assert torch.equal(shuffled, dictionary(known, 14, "shuffled", 1))
    assert not torch.equal(shuffled, dictionary(known, 14, "shuffled", 2))


@pytest.mark.parametrize("knowledge", ["teacher", "zeroed", "mean"])
def test_the_released_student_has_the_knowledge_it_was_given(knowledge, trained, known):
    found = trained("--preset", "ch", "--knowledge", knowledge, "--seed", 3)
    assert torch.equal(
        found.student.heads.prior.dictionary, dictionary(known, 14, knowledge, seed=3)
    )


def test_an_offline_student_is_scored_and_not_exported(words, tmp_path, monkeypatch):
    monkeypatch.setattr("train.release.export.export", lambda *_: pytest.fail("exported"))
    line = words(tmp_path, "--preset", "mkd+ch", "--no-streaming")
    student = distill(Distill(_cli_parse_args=line))
    assert not student.config.encoder.causal
    report = json.loads((tmp_path / "dev.json").read_text())
    assert set(report["scores"]) == set(TASKS)
    assert "--no-streaming" in report["recipe"]["command"]
    assert not (tmp_path / "student.onnx").exists()


@pytest.mark.parametrize(
    ("backbone", "width", "name"), [("resnet", 4, "resnet4"), ("ecapa-res2", 16, "ecapa16")]
)
def test_the_papers_backbones_train(backbone, width, name, trained):
    found = trained("--preset", "ch", "--backbone", backbone, "--width", width)
    assert found.student.config.name == name
    assert found.student.config.encoder.causal


def test_flags_shape_the_encoder():
    def encoder(*flags):
        return Distill(_cli_parse_args=["--data", "d", "--out", "o", *flags]).encoder()

    compact = encoder()
    assert (compact.channels, compact.aggregated, compact.attention) == (160, 256, 64)
    assert encoder("--frame-stride", "1").stem_stride == 1
    papers = encoder("--backbone", "ecapa-res2")
    assert (papers.channels, papers.res2_scale, papers.stem_stride) == (512, 8, 1)
    assert (papers.causal, papers.global_context) == (True, False)
    offline = encoder("--backbone", "ecapa-res2", "--no-streaming")
    assert (offline.causal, offline.global_context) == (False, True)
    resnet = encoder("--backbone", "resnet")
    assert (resnet.width, resnet.blocks, resnet.pooling) == (32, (3, 4, 6, 3), "statistics")
    with pytest.raises(ValueError, match="channels 20 do not split"):
        encoder("--backbone", "ecapa-res2", "--width", "20")


class StoppedError(Exception):
    """Before the first step."""


def beginning(monkeypatch, line):
    """The network that a run would begin with."""
    seen = []

    def stopped(self):
        seen.append(self)
        raise StoppedError

    monkeypatch.setattr(Trainer, "train", stopped)
    with pytest.raises(StoppedError):
        distill(Distill(_cli_parse_args=line))
    (loop,) = seen
    return loop


@pytest.mark.parametrize("preset", PRESETS)
def test_stages_are_those_of_the_preset(preset, words, tmp_path, monkeypatch):
    flags = ("--preset", preset, "--mixup-window", 6, "--mixup-lambda", 0.6)
    loop = beginning(monkeypatch, words(tmp_path, *flags))
    mixup, project = loop.lesson.mixup, loop.lesson.project
    if PRESETS[preset]["mixup"]:
        assert (mixup.window, mixup.lam) == (6, 0.6)
    else:
        assert mixup is None
    if PRESETS[preset]["distillation"] == "none":
        assert project is None
        assert loop.material.teacher is None
    else:
        assert (project.in_features, project.out_features) == (128, 12)
        assert loop.material.teacher.matrix.shape == (20, 12)


@pytest.mark.parametrize(
    "name",
    # the prior logits have no flag
    [
        field.name
        for field in fields(Objective)
        if field.type == "float" and field.name != "glance_weight"
    ],
)
def test_flags_reach_the_objective(name):
    flag = "--" + name.replace("_", "-")
    settings = Distill(_cli_parse_args=["--data", "d", "--out", "o", flag, "0.125"])
    assert getattr(settings.objective(), name) == 0.125


def test_a_run_can_begin_with_the_weights_of_another(exported, words, tmp_path, monkeypatch):
    other = load_student(exported[0])
    flags = ("--preset", "ch", "--init", exported[0], "--knowledge", "zeroed", "--seed", 9)
    loop = beginning(monkeypatch, words(tmp_path, *flags))
    for student in (loop.lesson.student, loop.averaged.module):
        for name, value in other.state_dict().items():
            if name != "heads.prior.dictionary":
                assert torch.equal(student.state_dict()[name], value), name
        assert not student.heads.prior.dictionary.any()  # K is of this run
    assert (loop.at.epoch, loop.at.step) == (0, 0)
    line = words(tmp_path, "--preset", "base", "--init", exported[0], "--width", 24)
    with pytest.raises(ValueError, match="--init run: its encoder is another"):
        distill(Distill(_cli_parse_args=line))


def test_a_run_may_add_to_the_network_it_begins_with(trained, words, tmp_path, monkeypatch):
    other = trained("--preset", "base").student.state_dict()
    line = words(tmp_path / "more", "--preset", "ch", "--init", tmp_path / "run")
    ours = beginning(monkeypatch, line).lesson.student.state_dict()
    shared = [name for name in ours if name in other and ours[name].shape == other[name].shape]
    assert {"feature_mean", "encoder.stem.product.linear.weight"} < set(shared)
    for name in shared:
        assert torch.equal(ours[name], other[name]), name
    assert "heads.prior.dictionary" not in other
    assert ours["heads.prior.dictionary"].any()


def finished_calls(prepared, folder):
    """Two copies of every utterance, as train.simulate_calls labels them."""
    folder.mkdir()
    for split, copies in (("train", 2), ("dev", 1)):
        calls = []
        for copy in range(copies):
            for cut in open_split(prepared, split).cuts():
                label = cut.supervisions[0]
                custom = {**label.custom, "line": "call"}
                name = f"{cut.id}~{copy}" if split == "train" else cut.id
                label = replace(label, id=name, custom=custom)
                calls.append(replace(cut, id=name, supervisions=[label]))
        CutSet.from_cuts(calls).to_file(folder / f"cuts.{split}.jsonl.gz")
    return folder


def test_finished_calls_are_taught_by_their_clean_originals(
    prepared, teacher_run, tiny, tmp_path, monkeypatch
):
    calls = finished_calls(prepared, tmp_path / "calls")
    known = []
    forward = TrainingStep.forward

    def recorded(self, samples, lengths, targets, teacher, found):
        known.append(found)
        return forward(self, samples, lengths, targets, teacher, found)

    monkeypatch.setattr(TrainingStep, "forward", recorded)
    flags = ("--preset", "mkd-cos", "--teacher", teacher_run, "--no-streaming")
    distill(
        Distill(_cli_parse_args=tiny(calls, tmp_path / "run", *flags, "--clean-data", prepared))
    )
    assert len(known) == 5
    assert all(found.all() for found in known)
    with pytest.raises(ValueError, match="no wideband utterance"):
        distill(Distill(_cli_parse_args=tiny(calls, tmp_path / "other", *flags)))
