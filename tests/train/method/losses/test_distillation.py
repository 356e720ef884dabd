import pytest
import torch

from train.method.losses.distillation import feature_cosine, feature_mse


def test_mse_by_hand():
    student, teacher = (
        torch.tensor([[1.0, 2.0], [0.0, 0.0]]),
        torch.tensor([[3.0, 1.0], [0.0, 0.0]]),
    )
    assert feature_mse(student, teacher).tolist() == [2.5, 0.0]


def test_cosine_by_hand():
    student = torch.tensor([[2.0, 0.0], [1.0, 1.0], [0.0, 3.0], [1.0, 0.0]])
    teacher = torch.tensor([[5.0, 0.0], [-1.0, -1.0], [1.0, 0.0], [1.0, 1.0]])
    expected = [0.0, 2.0, 1.0, 1 - 0.5**0.5]
    assert feature_cosine(student, teacher).tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("loss", [feature_mse, feature_cosine])
def test_only_the_student_learns(loss):
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(3, 4, generator=generator).requires_grad_() for _ in "st")
    loss(student, teacher).sum().backward()
    assert student.grad.any(dim=1).all()
    assert teacher.grad is None


@pytest.mark.parametrize("loss", [feature_mse, feature_cosine])
def test_gradient(loss):
    generator = torch.Generator().manual_seed(1)
    student, teacher = (torch.randn(3, 4, generator=generator, dtype=torch.float64) for _ in "st")
    assert torch.autograd.gradcheck(lambda x: loss(x, teacher), (student.requires_grad_(),))


def test_zero_vectors_cost_one_and_give_a_bounded_gradient():
    student = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    loss = feature_cosine(student, teacher)
    assert loss.tolist() == [1.0, 1.0, 1.0]
    loss.sum().backward()
    assert student.grad.isfinite().all()
    assert student.grad.abs().max() < 2e3
