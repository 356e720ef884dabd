from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, one_hot

from train.method.losses.dependency import disagrees, is_wrong, literal, repaired, smooth

PARENT = torch.tensor([0, 1, 1])  # subclasses 1 and 2 are children of superclass 1

# Predicted and true classes of four rows whose labels are (sub 0, sup 0).
RIGHT, SUB_WRONG, SUP_WRONG, BOTH_WRONG = (0, 0), (1, 0), (0, 1), (1, 1)


def predictions(*rows):
    """Logits of (subclass, superclass) predictions."""
    sub, sup = torch.tensor(rows, dtype=torch.int64).T
    return 5.0 * one_hot(sub, 3).double(), 5.0 * one_hot(sup, 2).double()


def apply(loss, rows, sub_loss, sup_loss, sub_target=0):
    sub_logits, sup_logits = predictions(*rows)
    sub_target = torch.full((len(rows),), sub_target)
    return loss(sub_logits, sup_logits, sub_loss, sup_loss, sub_target, PARENT[sub_target], PARENT)


def losses(rows, sub=2.0, sup=3.0):
    return (
        torch.full((rows,), sub, dtype=torch.float64, requires_grad=True),
        torch.full((rows,), sup, dtype=torch.float64, requires_grad=True),
    )


def test_masks():
    sub_logits, sup_logits = predictions(RIGHT, SUB_WRONG, SUP_WRONG, (2, 1))
    assert disagrees(sub_logits, sup_logits, PARENT).tolist() == [False, True, True, False]
    zeros = torch.zeros(4, dtype=torch.int64)
    assert is_wrong(sub_logits, zeros).tolist() == [False, True, False, True]
    assert is_wrong(sup_logits, zeros).tolist() == [False, False, True, True]


def test_repaired_by_hand():
    rows = (RIGHT, SUB_WRONG, SUP_WRONG, BOTH_WRONG)
    assert apply(repaired, rows, *losses(4)).tolist() == [0.0, 2.0, 3.0, 0.0]
    # (sub 1, sup 0) for a caller of subclass 2: apart, both wrong: 3 * 4 - 1
    assert apply(repaired, [(1, 0)], *losses(1), sub_target=2).tolist() == [11.0]
    for sub, sup, sub_target in product(range(3), range(2), range(3)):
        penalty = apply(repaired, [(sub, sup)], *losses(1), sub_target=sub_target).item()
        assert (penalty > 0) == (PARENT[sub] != sup)


@pytest.mark.parametrize(
    ("row", "sub_target", "expected", "of_sub", "of_sup"),
    [
        (RIGHT, 0, -1.0, 0.0, 0.0),
        (BOTH_WRONG, 0, -1.0, 0.0, 0.0),
        (SUB_WRONG, 0, -2.0, -1.0, 0.0),  # cancels the loss of the level at fault
        (SUP_WRONG, 0, -3.0, 0.0, -1.0),
        ((1, 0), 2, -6.0, -3.0, -2.0),  # rewards two wrongs
    ],
)
def test_literal_by_hand(row, sub_target, expected, of_sub, of_sup):
    sub_loss, sup_loss = losses(1)
    loss = apply(literal, [row], sub_loss, sup_loss, sub_target=sub_target)
    loss.sum().backward()
    assert loss.tolist() == [expected]
    assert (sub_loss.grad.tolist(), sup_loss.grad.tolist()) == ([of_sub], [of_sup])


def test_repaired_keeps_small_losses():
    sub_loss, sup_loss = torch.tensor([1e-9]), torch.tensor([0.0])
    assert apply(repaired, [SUB_WRONG], sub_loss, sup_loss).item() == pytest.approx(1e-9)


def test_repaired_gradient_reaches_wrong_levels_only():
    rows = (RIGHT, SUB_WRONG, SUP_WRONG, BOTH_WRONG)
    sub_loss, sup_loss = losses(4)
    apply(repaired, rows, sub_loss, sup_loss).sum().backward()
    assert sub_loss.grad.tolist() == [0.0, 1.0, 0.0, 0.0]  # the last is consistent, though wrong
    assert sup_loss.grad.tolist() == [0.0, 0.0, 1.0, 0.0]

    sub_loss, sup_loss = losses(1)
    apply(repaired, [(1, 0)], sub_loss, sup_loss, sub_target=2).backward()
    assert sub_loss.grad.tolist() == [4.0]  # 1 + the other's loss
    assert sup_loss.grad.tolist() == [3.0]


def test_repaired_reaches_logits_through_losses():
    sub_logits, sup_logits = (x.requires_grad_() for x in predictions(RIGHT, SUB_WRONG))
    target = torch.zeros(2, dtype=torch.int64)
    sub_loss = cross_entropy(sub_logits, target, reduction="none")
    sup_loss = cross_entropy(sup_logits, target, reduction="none")
    arguments = (target, target, PARENT)

    penalty = repaired(sub_logits, sup_logits, sub_loss, sup_loss, *arguments).sum()
    by_sub, by_sup = torch.autograd.grad(penalty, (sub_logits, sup_logits), retain_graph=True)
    expected = torch.autograd.grad(sub_loss[1], sub_logits)[0]
    torch.testing.assert_close(by_sub, expected)
    assert by_sub[1].any()
    assert not by_sup.any()

    constant = repaired(sub_logits, sup_logits, sub_loss.detach(), sup_loss.detach(), *arguments)
    assert not constant.requires_grad


@given(st.integers(0, 2**31 - 1), st.sampled_from([0.0, 1e-6, 1.0, 1e4]))
def test_repaired_is_never_negative(seed, size):
    generator = torch.Generator().manual_seed(seed)
    sub_logits, sup_logits = (torch.randn(8, n, generator=generator) for n in (3, 2))
    sub_loss, sup_loss = size * torch.rand(2, 8, generator=generator)
    sub_target = torch.randint(3, (8,), generator=generator)
    sup_target = torch.randint(2, (8,), generator=generator)  # of any tree, or none
    penalty = repaired(sub_logits, sup_logits, sub_loss, sup_loss, sub_target, sup_target, PARENT)
    assert (penalty >= 0).all()
    assert not penalty[~disagrees(sub_logits, sup_logits, PARENT)].any()


def test_smooth_is_large_where_sure_and_apart():
    sub, sup = predictions(RIGHT, (2, 1), SUB_WRONG)
    loss = smooth(20 * sub, 20 * sup, PARENT).tolist()
    assert loss[:2] == pytest.approx([0.0, 0.0], abs=1e-12)
    assert loss[2] == pytest.approx(100.0, rel=1e-2)  # in log space: exp(-100) is no float32


def test_smooth_gradient():
    generator = torch.Generator().manual_seed(0)
    logits = [
        torch.randn(5, n, generator=generator, dtype=torch.float64).requires_grad_() for n in (3, 2)
    ]
    assert torch.autograd.gradcheck(lambda a, b: smooth(a, b, PARENT), logits)


@given(st.integers(0, 2**31 - 1), st.sampled_from([0.1, 3.0, 30.0, 1000.0]))
def test_smooth_is_never_negative_and_finite(seed, scale):
    generator = torch.Generator().manual_seed(seed)
    sub, sup = (scale * torch.randn(16, n, generator=generator) for n in (3, 2))
    loss = smooth(sub, sup, PARENT)
    assert (loss >= 0).all()
    assert loss.isfinite().all()


def test_smooth_is_not_negative_by_rounding():
    sub = torch.tensor([[-20.007484436035156, 2.740111827850342, 3.7753078937530518]])
    sup = torch.tensor([[1.3816827535629272, 18.191532135009766]])
    assert smooth(sub, sup, PARENT).item() == 0.0
