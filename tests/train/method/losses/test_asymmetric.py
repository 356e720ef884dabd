import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot

from train.method.losses.asymmetric import asymmetric, asymmetric_single_label

seeds = st.integers(0, 2**31 - 1)


def draw(seed, rows=6, classes=4, scale=3.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(rows, classes, generator=generator, dtype=dtype)
    return logits, torch.randint(classes, (rows,), generator=generator)


def logit(p):
    return math.log(p / (1 - p))


def test_sigmoid_form_by_hand():
    logits = torch.tensor([[logit(0.8), logit(0.3), logit(0.04)]], dtype=torch.float64)
    loss = asymmetric(
        logits, torch.tensor([0]), gamma_negative=2.0, gamma_positive=1.0, margin=0.05
    )
    by_hand = -0.2 * math.log(0.8) - 0.25**2 * math.log(0.75)  # p = 0.04 is under the margin
    assert loss.tolist() == pytest.approx([by_hand], rel=1e-9)


@given(seeds)
def test_sigmoid_form_without_focus_is_binary_cross_entropy(seed):
    logits, target = draw(seed)
    loss = asymmetric(logits, target, gamma_negative=0.0, gamma_positive=0.0, margin=0.0)
    labels = one_hot(target, logits.shape[1]).double()
    expected = binary_cross_entropy_with_logits(logits, labels, reduction="none").sum(dim=1)
    torch.testing.assert_close(loss, expected)


@given(seeds, st.sampled_from([0.0, 0.05, 0.3]))
def test_sigmoid_form_is_the_published_formula(seed, margin):
    logits, target = draw(seed)
    p = logits.sigmoid()
    shifted = (p - margin).clamp(min=0.0)
    positive, negative = (1 - p) ** 1.5 * p.log(), shifted**3 * (1 - shifted).log()
    y = one_hot(target, logits.shape[1])
    loss = asymmetric(logits, target, gamma_negative=3.0, gamma_positive=1.5, margin=margin)
    torch.testing.assert_close(loss, -(y * positive + (1 - y) * negative).sum(dim=1))


def test_negatives_under_the_margin_cost_nothing_and_get_no_gradient():
    logits = torch.tensor([[3.0, logit(0.04), logit(0.06)]], requires_grad=True)
    asymmetric(
        logits, torch.tensor([0]), gamma_negative=1.0, gamma_positive=0.0, margin=0.05
    ).sum().backward()
    assert logits.grad[0, 1] == 0.0
    assert logits.grad[0, 2] > 0.0


@pytest.mark.parametrize("margin", [0.0, 0.05])
@pytest.mark.parametrize("gammas", [(0.0, 0.0), (4.0, 1.0), (0.5, 0.5)])
@pytest.mark.parametrize("size", [50.0, 1000.0])
@pytest.mark.parametrize("target", [0, 1])
def test_sigmoid_form_is_finite_for_extreme_logits(margin, gammas, size, target):
    logits = torch.tensor([[size, -size]], requires_grad=True)
    loss = asymmetric(
        logits,
        torch.tensor([target]),
        gamma_negative=gammas[0],
        gamma_positive=gammas[1],
        margin=margin,
    )
    loss.sum().backward()
    assert loss.isfinite().all()
    assert logits.grad.isfinite().all()
    assert (loss > 1.0).all() == (target == 1)  # sure and wrong costs, sure and right does not


def test_a_surely_wrong_target_still_gets_gradient_in_single_precision():
    logits = torch.tensor([[-50.0, 0.0]], requires_grad=True)
    asymmetric(
        logits, torch.tensor([0]), gamma_negative=4.0, gamma_positive=1.0, margin=0.05
    ).sum().backward()
    assert float(logits.grad[0, 0]) == pytest.approx(-1.0)


@pytest.mark.parametrize("margin", [0.0, 0.05])
def test_gradient_of_the_sigmoid_form_includes_the_focusing_weight(margin):
    logits, target = draw(1, scale=2.0)
    assert torch.autograd.gradcheck(
        lambda x: asymmetric(x, target, gamma_negative=4.0, gamma_positive=1.0, margin=margin),
        (logits.requires_grad_(),),
    )


@pytest.mark.parametrize("target", [3, -1])
def test_a_target_outside_the_classes_is_refused(target):
    with pytest.raises((RuntimeError, IndexError)):
        asymmetric(
            torch.zeros(1, 3), torch.tensor([target]), gamma_negative=0, gamma_positive=0, margin=0
        )


def test_softmax_form_by_hand():
    logits = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64).log()
    loss = asymmetric_single_label(
        logits, torch.tensor([0]), gamma_negative=2.0, gamma_positive=1.0, smoothing=0.3
    )
    at_target = 0.8 * 0.5 * math.log(0.5)
    elsewhere = 0.1 * (0.3**2 * math.log(0.3) + 0.2**2 * math.log(0.2))
    assert loss.tolist() == pytest.approx([-at_target - elsewhere], rel=1e-9)


@given(seeds, st.floats(0.0, 6.0))
def test_softmax_form_without_smoothing_is_cross_entropy(seed, gamma_negative):
    logits, target = draw(seed)
    loss = asymmetric_single_label(
        logits, target, gamma_negative=gamma_negative, gamma_positive=0.0, smoothing=0.0
    )
    torch.testing.assert_close(loss, cross_entropy(logits, target, reduction="none"))


@given(seeds, st.floats(0.0, 1.0))
def test_softmax_form_without_focus_is_smoothed_cross_entropy(seed, smoothing):
    logits, target = draw(seed)
    loss = asymmetric_single_label(
        logits, target, gamma_negative=0.0, gamma_positive=0.0, smoothing=smoothing
    )
    expected = cross_entropy(logits, target, reduction="none", label_smoothing=smoothing)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("gammas", [(4.0, 0.0), (0.5, 0.5)])
@pytest.mark.parametrize("size", [50.0, 1000.0])
@pytest.mark.parametrize("target", [0, 1])
def test_softmax_form_is_finite_for_extreme_logits(gammas, size, target):
    logits = torch.tensor([[size, -size]], requires_grad=True)
    loss = asymmetric_single_label(
        logits,
        torch.tensor([target]),
        gamma_negative=gammas[0],
        gamma_positive=gammas[1],
        smoothing=0.1,
    )
    loss.sum().backward()
    assert loss.isfinite().all()
    assert logits.grad.isfinite().all()
    assert (loss > 1.0).all() == (target == 1)


def test_gradient_of_the_softmax_form_includes_the_focusing_weight():
    logits, target = draw(2, scale=2.0)
    assert torch.autograd.gradcheck(
        lambda x: asymmetric_single_label(
            x, target, gamma_negative=4.0, gamma_positive=1.0, smoothing=0.1
        ),
        (logits.requires_grad_(),),
    )


@given(seeds, st.sampled_from([0.1, 3.0, 100.0]))
def test_neither_form_is_ever_negative(seed, scale):
    logits, target = draw(seed, scale=scale, dtype=torch.float32)
    assert (
        asymmetric(logits, target, gamma_negative=4.0, gamma_positive=1.0, margin=0.05) >= 0
    ).all()
    assert (
        asymmetric_single_label(
            logits, target, gamma_negative=4.0, gamma_positive=1.0, smoothing=0.1
        )
        >= 0
    ).all()
