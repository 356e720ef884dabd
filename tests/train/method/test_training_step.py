"""One step's computation: what is augmented, in which precision, and what it leaves behind."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from model.classifier import BLOCK, SpeakerClassifier, StudentConfig
from model.encoders.ecapa import EcapaConfig
from model.heads import HeadsConfig
from train.method.augment import ChannelTilt
from train.method.mixup import SpecAugment, TemporalFrequencyMixup
from train.method.objective import Objective, prefix_weights, total_objective
from train.method.training_step import TrainingStep

SMALL = EcapaConfig(channels=16, aggregated=24, attention=8, squeeze=8)
CAUSAL = HeadsConfig(embedding=12, dropout=0.2, hierarchy="conveyed", hidden=8, knowledge=6)
PLAIN = HeadsConfig(embedding=12, dropout=0.0)
EVERYTHING = Objective(
    distillation="cosine", age_loss="asymmetric", dependency="repaired", invariance_weight=0.5
)


def lesson_of(heads=PLAIN, objective=None, **parts):
    torch.manual_seed(0)
    student = SpeakerClassifier(StudentConfig(SMALL, heads))
    parts = {"augment": nn.Identity(), **parts}
    return TrainingStep(student, objective or Objective(), **parts).train()


def batch(rows=4, blocks=5):
    """Noise 80 dB louder in one half of the band than in the other, the first row shorter."""
    torch.manual_seed(1)
    samples = 0.1 * torch.randn(rows, blocks * BLOCK).cumsum(dim=1)
    samples = samples / samples.abs().max()
    lengths = torch.full((rows,), blocks * BLOCK)
    lengths[0] = 2 * BLOCK + 100
    samples[0, lengths[0] :] = 0.0
    order = torch.arange(rows)
    return samples, lengths, {"gender": order % 2, "age_group": order % 4, "age_band": order % 7}


def twins(rows=4, width=6):
    torch.manual_seed(2)
    known = torch.ones(rows, dtype=torch.bool)
    known[1] = False
    return torch.randn(rows, width), known


@pytest.fixture
def features_seen(monkeypatch):
    """Features that students process, in order, and whether in training mode."""
    found = []
    forward = SpeakerClassifier.forward_features

    def recorded(self, features, lengths):
        found.append((features.detach(), self.training))
        return forward(self, features, lengths)

    monkeypatch.setattr(SpeakerClassifier, "forward_features", recorded)
    return found


def mixup():
    return TemporalFrequencyMixup(SpecAugment(), window=10, lam=0.7)


def test_mixup_is_for_training_and_stops_where_an_utterance_ends(features_seen):
    samples, lengths, targets = batch()
    plain, mixed = lesson_of(), lesson_of(mixup=mixup())
    for lesson in (plain, mixed, mixed.eval()):
        lesson(samples, lengths, targets)
    mixed.train()(samples, lengths, targets)
    expected, evaluated, found = (features_seen[k][0] for k in (0, 2, 3))
    assert torch.equal(expected, plain.student.features(samples))
    assert torch.equal(evaluated, expected)
    frames = int(lengths[0]) // 80
    assert torch.equal(found[0, frames:], expected[0, frames:])
    assert (found[0, :frames] != expected[0, :frames]).any()
    assert (found != expected)[1:].any(dim=(1, 2)).all()


def test_channel_comes_before_mixup(features_seen):
    class Shift(nn.Module):
        def forward(self, features):
            return features + 3.0

    samples, lengths, targets = batch()
    mixed = TemporalFrequencyMixup(nn.Identity(), window=0, lam=0.5)
    mixed.specaugment.forward = lambda features, _: torch.zeros_like(features)
    lesson = lesson_of(objective=Objective(invariance_weight=1.0), augment=Shift(), mixup=mixed)
    lesson(samples, lengths, targets)
    (styled, training), (plain, judging) = features_seen
    assert (training, judging) == (True, False)
    assert torch.equal(plain, lesson.student.features(samples))
    torch.testing.assert_close(styled[1], (plain[1] + 3.0) / 2)


def test_features_are_float32_under_autocast(features_seen):
    samples, lengths, targets = batch()
    lesson = lesson_of(augment=ChannelTilt(80), mixup=mixup())
    torch.manual_seed(3)
    lesson(samples, lengths, targets)
    torch.manual_seed(3)
    with torch.autocast("cpu", torch.bfloat16):
        lesson(samples, lengths, targets)
    assert features_seen[1][0].dtype == torch.float32
    assert torch.equal(features_seen[1][0], features_seen[0][0])


def test_terms_in_16_bits_are_near_those_in_32():
    samples, lengths, targets = batch()
    lesson = lesson_of(
        replace(CAUSAL, dropout=0.0), EVERYTHING, augment=ChannelTilt(80), mixup=mixup(), taught=6
    )
    torch.manual_seed(3)
    expected = lesson(samples, lengths, targets, *twins())
    torch.manual_seed(3)
    with torch.autocast("cpu", torch.bfloat16):
        found = lesson(samples, lengths, targets, *twins())
    assert len(found) == 8
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert value.dtype == torch.float32
        assert value.isfinite(), name
        assert float(value.detach()) == pytest.approx(float(expected[name].detach()), abs=0.1), name
    torch.stack(list(found.values())).sum().backward()
    for name, parameter in lesson.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_losses_are_float32_under_autocast(monkeypatch):
    seen = []

    def recorded(objective, output, *arguments, taught, plain):
        for each in (output, plain):
            seen.extend((*each.logits.values(), *each.prior_logits.values()))
        seen.extend((taught.student, taught.teacher))
        seen.append(torch.ones(1) @ torch.ones(1))
        return total_objective(objective, output, *arguments, taught=taught, plain=plain)

    monkeypatch.setattr("train.method.training_step.total_objective", recorded)
    samples, lengths, targets = batch()
    with torch.autocast("cpu", torch.bfloat16):
        lesson_of(CAUSAL, EVERYTHING, taught=6)(samples, lengths, targets, *twins())
    assert len(seen) == 13
    assert {value.dtype for value in seen} == {torch.float32}


def test_plain_speech_changes_no_statistics():
    samples, lengths, targets = batch()
    lesson = lesson_of(CAUSAL, Objective(invariance_weight=1.0))
    once = lesson_of(CAUSAL)
    for each in (lesson, once):
        torch.manual_seed(4)
        each(samples, lengths, targets)
    assert all(module.training for module in lesson.modules())
    ours, reference = lesson.student.state_dict(), once.student.state_dict()
    tracked = [name for name in ours if "running" in name or "tracked" in name]
    assert tracked
    for name in tracked:
        assert torch.equal(ours[name], reference[name]), name


def test_invariance_compares_with_plain_speech():
    samples, lengths, targets = batch()
    lesson = lesson_of(PLAIN, Objective(invariance_weight=1.0))
    lesson.student.eval()
    lesson.student.train = lambda *_: lesson.student  # judges both alike
    found = lesson(samples, lengths, targets)
    assert float(found["invariance"].detach()) == pytest.approx(0.0, abs=1e-6)
    lesson.augment = ChannelTilt(80, tilt_db=12.0)
    assert lesson(samples, lengths, targets)["invariance"] > 1e-4


def test_embedding_is_projected_to_the_teachers_width():
    samples, lengths, targets = batch()
    teacher, known = twins(width=5)
    lesson = lesson_of(objective=Objective(distillation="mse"), taught=5)
    found = lesson(samples, lengths, targets, teacher, known)
    output = lesson.student(samples, lengths)
    projected = output.embedding @ lesson.project.weight.t() + lesson.project.bias
    each = (projected - teacher[:, None]).square().mean(dim=2)
    expected = (each * prefix_weights(output.block_mask)).sum(dim=1)[known].mean()
    torch.testing.assert_close(found["distillation"], expected)
    found["distillation"].backward()
    assert lesson.project.weight.grad.any()
    assert lesson.student.encoder.stem.product.linear.weight.grad.any()


def test_state_is_the_student_and_the_projection():
    samples, lengths, targets = batch()
    lesson = lesson_of(
        objective=Objective(distillation="mse"), mixup=mixup(), augment=ChannelTilt(80)
    )
    assert lesson.project is None
    assert "distillation" not in lesson(samples, lengths, targets, *twins())
    assert all(name.startswith("student.") for name in lesson.state_dict())
    rest = {n for n in lesson_of(taught=5).state_dict() if not n.startswith("student.")}
    assert rest == {"project.weight", "project.bias"}
