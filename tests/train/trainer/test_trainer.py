"""The loop over steps and epochs: wherever it is stopped, it goes on to the same weights."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from model.classifier import BLOCK, SpeakerClassifier, StudentConfig
from model.heads import HeadsConfig
from model.labels import DEFAULT_TREE, TASKS
from train.checkpoint import load_student
from train.data.batching import Batch, TelephoneDataset
from train.data.channel_sampler import ChannelSampler
from train.distill import Distill, distill
from train.method.mixup import SpecAugment, TemporalFrequencyMixup
from train.method.teacher import Embeddings
from train.method.training_step import TrainingStep
from train.trainer import trainer as module
from train.trainer.devices import Autocast, launch
from train.trainer.setup import augmentation, begin, fit_normalisation, open_corpus
from train.trainer.trainer import Trainer

TERMS = ["distillation", "gender", "age_group", "age_band", "dependency", "invariance"]


@pytest.fixture(scope="module")
def begun(sharded, tiny):
    """A loop that is ready to go in a folder, with every term of the objective in it."""

    def make(out, *flags, fabric=None) -> Trainer:
        words = tiny(sharded, out, "--channel", "clean", "--epochs", 3, *flags)
        settings = Distill(_cli_parse_args=words)
        fabric = fabric or launch(settings)
        torch.manual_seed(settings.seed)
        corpus = open_corpus(settings, fabric)
        ids = np.array([cut.id for cut in corpus.train.cuts()][:-3])  # three have no twin
        twins = np.random.default_rng(1).standard_normal((len(ids), 6), np.float32)
        known = Embeddings(ids, twins, np.zeros(len(ids), int), np.ones(len(ids), np.float32))
        heads = HeadsConfig(embedding=12, dropout=0.2, hierarchy="conveyed", hidden=8)
        lesson = TrainingStep(
            SpeakerClassifier(StudentConfig(settings.encoder(), heads)),
            settings.objective(),
            augment=augmentation(settings, 8000),
            mixup=TemporalFrequencyMixup(SpecAugment()),
            taught=6,
        )

        def dataset(epoch, crop):
            return TelephoneDataset(
                DEFAULT_TREE, ChannelSampler("clean"), settings.seed, epoch=epoch, crop=crop
            )

        return begin(settings, lesson, corpus, dataset, fabric, known)

    return make


@pytest.fixture(scope="module")
def finished(begun, tmp_path_factory):
    out = tmp_path_factory.mktemp("loop") / "run"
    begun(out).train()
    return out


def state_of(run):
    return torch.load(run / "last.pt", weights_only=True)


def log_of(run):
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{key: line[key] for key in line if key != "seconds"} for line in lines]


def assert_same(ours, reference, name="state"):
    if isinstance(reference, dict):
        assert ours.keys() == reference.keys(), name
        for key, value in reference.items():
            assert_same(ours[key], value, f"{name}.{key}")
    elif isinstance(reference, torch.Tensor):
        assert torch.equal(ours, reference), name
    else:
        assert ours == reference, name


def assert_same_run(ours, reference):
    ours, reference = state_of(ours), state_of(reference)
    for part in ("averaged", "lesson", "optimiser", "schedule", "best"):
        assert_same(ours[part], reference[part], part)
    assert ours["epoch"] == reference["epoch"]


class KilledError(Exception):
    """What ends a run in these tests."""


def killed_at(loop, epoch, step):
    """Let the loader of a loop fail before a step of an epoch, both counted from 0."""
    whole = loop.material.batches

    def batches(now, start):
        for number, batch in enumerate(whole(now, start), start):
            if (now, number) == (epoch, step):
                raise KilledError
            yield batch

    loop.material.batches = batches


@pytest.mark.parametrize("step", [0, 1, 2])
def test_an_interrupted_run_ends_in_the_same_weights(begun, finished, tmp_path, step):
    loop = begun(tmp_path, "--save-minutes", 0)
    assert loop.material.steps == 3
    killed_at(loop, 1, step)
    with pytest.raises(KilledError):
        loop.train()
    resumed = begun(tmp_path, "--save-minutes", 0)
    assert (resumed.at.epoch, resumed.at.step) == (1, step)
    assert list(resumed.at.totals) == (TERMS if step else [])
    torch.rand(7)  # the generator of a new process is elsewhere
    resumed.train()
    assert_same_run(tmp_path, finished)
    assert log_of(tmp_path) == log_of(finished)


def test_a_checkpoint_before_evaluation_is_enough(begun, finished, tmp_path, monkeypatch):
    loop = begun(tmp_path, "--save-minutes", 0)
    with monkeypatch.context() as patch:
        patch.setattr(module, "summary", lambda *_: (_ for _ in ()).throw(KilledError))
        with pytest.raises(KilledError):
            loop.train()
    resumed = begun(tmp_path)
    assert (resumed.at.epoch, resumed.at.step) == (0, 3)
    resumed.train()
    assert_same_run(tmp_path, finished)
    assert log_of(tmp_path) == log_of(finished)


def test_a_killed_process_ends_in_the_same_weights(sharded, tiny, tmp_path):
    flags = ("--preset", "base", "--channel", "clean", "--no-streaming")
    flags = (*flags, "--epochs", 2, "--epoch-clips", 96, "--save-minutes", 0)
    words = tiny(sharded, tmp_path / "killed", *flags)
    command = [sys.executable, "-m", "train.distill", *words]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while not (tmp_path / "killed" / "last.pt").exists():
            assert process.poll() is None
            time.sleep(0.002)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    stopped = state_of(tmp_path / "killed")
    assert (0, 0) < (stopped["epoch"], stopped["step"]) < (2, 0)
    assert not (tmp_path / "killed" / "dev.json").exists()
    distill(Distill(_cli_parse_args=words))
    distill(Distill(_cli_parse_args=tiny(sharded, tmp_path / "whole", *flags)))
    assert_same_run(tmp_path / "killed", tmp_path / "whole")
    assert (tmp_path / "killed" / "dev.json").exists()


def test_a_killed_save_leaves_the_last_checkpoint(begun, tmp_path, monkeypatch):
    loop = begun(tmp_path)
    loop.train_one()
    before = (tmp_path / "last.pt").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("torch.save", lambda _, path: path.write_bytes(b"half"))
        patch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(KilledError))
        with pytest.raises(KilledError):
            loop.save()
    assert (tmp_path / "last.tmp").read_bytes() == b"half"
    assert (tmp_path / "last.pt").read_bytes() == before
    assert begun(tmp_path).at.epoch == 1


def test_a_checkpoint_of_another_network_is_refused(begun, finished, tmp_path):
    (tmp_path / "last.pt").write_bytes((finished / "last.pt").read_bytes())
    with pytest.raises(ValueError, match=r"last\.pt: cannot go on from here with these flags"):
        begun(tmp_path, "--width", 24)
    (tmp_path / "last.pt").write_bytes(b"half")
    with pytest.raises(ValueError, match=r"last\.pt: cannot go on"):
        begun(tmp_path)


def test_a_run_goes_on_with_the_flags_it_was_begun_with(begun, finished, tmp_path):
    (tmp_path / "last.pt").write_bytes((finished / "last.pt").read_bytes())
    with pytest.raises(ValueError, match=r"--learning-rate was absent, is 0\.001"):
        begun(tmp_path, "--learning-rate", 0.001)
    assert begun(tmp_path, "--patience", 2).at.epoch == 3  # changes nothing of what was trained


def test_a_kill_between_checkpoint_and_log_costs_no_line(begun, finished, tmp_path):
    (tmp_path / "last.pt").write_bytes((finished / "last.pt").read_bytes())
    (tmp_path / "log.jsonl").write_text("of a run before\n")
    begun(tmp_path)
    assert (tmp_path / "log.jsonl").read_text() == (finished / "log.jsonl").read_text()


def scored(monkeypatch, scores):
    """Scores on dev, an epoch each, in place of those of the network."""
    every = iter(scores)

    def summary(*_):
        value = next(every)
        return {task: {"f1": value, "recall": 0.0, "ece": 0.0} for task in TASKS}

    monkeypatch.setattr(module, "summary", summary)


def test_the_best_epoch_on_dev_is_what_is_released(begun, tmp_path, monkeypatch):
    scored(monkeypatch, [0.2, 0.9, 0.4])
    loop = begun(tmp_path)
    kept = []
    for _ in range(3):
        loop.train_one()
        kept.append({k: v.clone() for k, v in loop.averaged.module.state_dict().items()})
    assert loop.at.best["epoch"] == 2
    assert loop.at.best["score"] == pytest.approx(1.8)
    assert any(not torch.equal(value, kept[2][name]) for name, value in kept[1].items())
    assert_same(load_student(tmp_path).state_dict(), kept[1])
    released = begun(tmp_path).train()  # nothing is left to train
    assert not released.training
    assert_same(dict(released.state_dict()), kept[1])


def test_patience_ends_a_run_that_gets_no_better(begun, tmp_path, monkeypatch):
    scored(monkeypatch, [0.2, 0.5, 0.5, 0.4, 0.9, 0.9])
    loop = begun(tmp_path, "--epochs", 6, "--patience", 2)
    loop.train()
    assert (loop.at.epoch, loop.at.best["epoch"]) == (4, 2)
    assert len(log_of(tmp_path)) == 4
    again = begun(tmp_path, "--epochs", 6, "--patience", 2)
    again.train()
    assert again.at.epoch == 4


@pytest.fixture
def ready(begun, tmp_path):
    """A loop and a batch, for tests of single steps."""
    loop = begun(tmp_path)
    loop.lesson.train()
    return loop, next(iter(loop.material.batches(0, 0)))


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_terms(ready):
    loop, batch = ready
    before = {k: v.clone() for k, v in loop.averaged.state_dict().items()}
    samples = batch.samples.clone()
    samples[0, 400] = torch.nan
    with pytest.raises(FloatingPointError, match=r"epoch 1, step 0: .*'gender': nan") as caught:
        loop.step(batch._replace(samples=samples))
    assert all(f"'{name}'" in str(caught.value) for name in TERMS)
    assert_same(dict(loop.averaged.state_dict()), before)


def test_a_gradient_that_is_not_finite_stops_the_run(begun, tmp_path):
    loop = begun(tmp_path)
    weight = loop.lesson.project.weight
    weight.register_hook(lambda gradient: gradient * torch.inf)
    before = weight.detach().clone()
    with pytest.raises(FloatingPointError, match="step 0: the gradient is not finite"):
        loop.train_one()
    assert torch.equal(weight, before)


def test_the_command_line_names_the_failure(sharded, tiny, tmp_path, monkeypatch):
    def step(*_):
        raise FloatingPointError("epoch 1, step 0: loss is not finite: {'gender': nan}")

    monkeypatch.setattr(Trainer, "step", step)
    words = tiny(sharded, tmp_path, "--preset", "base", "--channel", "clean")
    with pytest.raises(SystemExit, match="distill: epoch 1, step 0: loss is not finite"):
        Distill(_cli_parse_args=words).cli_cmd()


def test_every_step_moves_weights_average_and_learning_rate(ready):
    loop, batch = ready
    before = loop.lesson.project.weight.detach().clone()
    rate, count = loop.schedule.get_last_lr()[0], int(loop.averaged.n_averaged)
    found = loop.step(batch)
    assert list(found) == TERMS
    assert (loop.lesson.project.weight != before).any()
    assert loop.schedule.get_last_lr()[0] > rate  # still warming up
    assert int(loop.averaged.n_averaged) == count + 1


def test_the_average_follows_the_weights_but_lags(begun, tmp_path):
    loop = begun(tmp_path)
    student, average = loop.lesson.student.state_dict(), loop.averaged.module.state_dict()
    name = "encoder.stem.product.linear.weight"
    first, second = list(loop.material.batches(0, 0))[:2]
    loop.lesson.train()
    loop.step(first)
    after_one = student[name].clone()
    assert torch.equal(average[name], after_one)
    loop.step(second)
    expected = torch.lerp(after_one, student[name], 1 - 2 / 11)  # young, so not yet 0.998
    torch.testing.assert_close(average[name], expected)
    mean = "encoder.stem.product.norm.running_mean"
    assert (average[mean] != student[mean]).any()


def test_log_has_a_line_per_epoch_with_every_term(finished):
    log = log_of(finished)
    assert [line["epoch"] for line in log] == [1, 2, 3]
    for line in log:
        assert list(line["loss"]) == TERMS
        for name in ("dev_f1", "dev_recall", "dev_ece"):
            assert set(line[name]) == set(TASKS)
        assert line["score"] == pytest.approx(
            line["dev_f1"]["gender"] + line["dev_f1"]["age_group"]
        )
    best = max(log, key=lambda line: line["score"])
    assert state_of(finished)["best"]["epoch"] == best["epoch"]


def test_the_logged_loss_is_the_mean_of_the_steps(begun, tmp_path, monkeypatch):
    loop = begun(tmp_path)
    every = iter([1.0, 2.0, 6.0])
    monkeypatch.setattr(loop, "step", lambda _: {"gender": next(every)})
    assert loop.train_one()["loss"] == {"gender": 3.0}


def test_tensorboard_has_every_scalar_of_every_epoch(finished):
    events = EventAccumulator(str(finished / "tensorboard"))
    events.Reload()
    expected = {f"loss/{name}" for name in TERMS} | {"learning_rate"}
    expected |= {f"dev_{score}/{task}" for score in ("f1", "recall", "ece") for task in TASKS}
    assert set(events.Tags()["scalars"]) == expected
    written = events.Scalars("loss/gender")
    assert [event.step for event in written] == [1, 2, 3]
    logged = [line["loss"]["gender"] for line in log_of(finished)]
    assert [event.value for event in written] == pytest.approx(logged)


def test_training_learns(begun, tmp_path):
    flags = ("--epoch-clips", 64, "--epochs", 4, "--learning-rate", "1e-2")
    loop = begun(tmp_path, "--preset", "base", *flags)
    losses = [loop.train_one()["loss"]["gender"] for _ in range(4)]
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize("precision", ["bf16-mixed", "32-true"])
def test_samples_and_teacher_reach_the_lesson_unrounded(begun, tmp_path, monkeypatch, precision):
    loop = begun(tmp_path, "--precision", precision)
    batch = next(iter(loop.material.batches(0, 0)))
    seen = []
    forward = TrainingStep.forward

    def recorded(self, samples, lengths, targets, teacher, known):
        seen.append((samples, teacher, torch.is_autocast_enabled("cpu")))
        return forward(self, samples, lengths, targets, teacher, known)

    monkeypatch.setattr(TrainingStep, "forward", recorded)
    loop.lesson.train()
    found = loop.step(batch)
    ((samples, teacher, autocast),) = seen
    assert torch.equal(samples, batch.samples)
    assert torch.equal(teacher, loop.material.teacher.rows(batch.ids)[0])
    assert autocast == (precision == "bf16-mixed")
    assert all(np.isfinite(value) for value in found.values())


def test_an_accelerator_that_is_not_there_is_refused(sharded, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match="--accelerator cuda: torch finds no GPU"):
        launch(Distill(_cli_parse_args=tiny(sharded, tmp_path, "--accelerator", "cuda")))
    with pytest.raises(ValueError, match="--precision 16-mixed needs a GPU"):
        launch(Distill(_cli_parse_args=tiny(sharded, tmp_path, "--precision", "16-mixed")))


@pytest.mark.parametrize(
    ("has", "precision", "warned"),
    [
        ({"amx_bf16": True, "avx512_bf16": False, "avx2": True}, "bf16-mixed", False),
        ({"amx_bf16": False, "avx512_bf16": False, "avx2": True}, "bf16-mixed", True),
        ({"amx_bf16": False, "avx512_bf16": False, "avx2": True}, "32-true", False),
    ],
)
def test_a_cpu_that_imitates_bfloat16_is_warned_of(
    sharded, tiny, tmp_path, monkeypatch, caplog, has, precision, warned
):
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: has)
    launch(Distill(_cli_parse_args=tiny(sharded, tmp_path, "--precision", precision)))
    assert ("--precision bf16-mixed: this CPU has no instructions" in caplog.text) == warned


def test_an_overflow_in_16_bits_skips_a_step(begun, tmp_path):
    def fabric():
        # float16 is for GPUs; on a CPU it is slow, but the same
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        return Fabric(accelerator="cpu", plugins=Autocast("16-mixed", "cpu", scaler))

    loop = begun(tmp_path, "--precision", "16-mixed", fabric=fabric())
    weight = loop.lesson.project.weight
    scaler = loop.fabric.strategy.precision.scaler
    first, second, *_ = loop.material.batches(0, 0)
    loop.lesson.train()
    before = weight.detach().clone()
    loop.step(first)
    assert (weight != before).any()
    scaler.update(2.0**60)
    before = weight.detach().clone()
    loop.step(second)
    assert torch.equal(weight, before)
    assert scaler.get_scale() == 2.0**59
    loop.save()
    resumed = begun(tmp_path, "--precision", "16-mixed", fabric=fabric())
    assert resumed.fabric.strategy.precision.scaler.get_scale() == 2.0**59


def test_normalisation_is_fitted_to_speech_alone():
    torch.manual_seed(0)
    student = SpeakerClassifier(StudentConfig())
    samples = torch.zeros(2, 20 * BLOCK)
    samples[0, : 10 * BLOCK] = 0.1 * torch.randn(10 * BLOCK)
    lengths = torch.tensor([10 * BLOCK, 0])  # padded, and without speech
    fit_normalisation(student, [Batch(samples, lengths, {}, ["a", "b"])])
    inside = student.features(samples)[0, 2 : 10 * BLOCK // 80 - 2]
    torch.testing.assert_close(student.feature_mean, inside.mean(dim=0))
    torch.testing.assert_close(student.feature_scale, 1 / inside.std(dim=0))


def test_a_new_run_is_normalised_and_a_resumed_one_stays_as_it_was(begun, finished, tmp_path):
    unfitted = SpeakerClassifier(StudentConfig()).feature_mean
    loop = begun(tmp_path)
    fitted = loop.lesson.student.feature_mean
    assert (fitted != unfitted).all()
    assert torch.equal(loop.averaged.module.feature_mean, fitted)
    assert torch.equal(load_student(finished).feature_mean, fitted)
