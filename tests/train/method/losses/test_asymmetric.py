from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, one_hot

from train.method.losses.asymmetric import asymmetric, asymmetric_single_label

seeds = st.integers(0, 2**31 - 1)
FOCUS = {"gamma_negative": 4.0, "gamma_positive": 1.0}
FORMS = {
    "sigmoid": partial(asymmetric, margin=0.05),
    "sigmoid without margin": partial(asymmetric, margin=0.0),
    "softmax": partial(asymmetric_single_label, smoothing=0.1),
}
forms = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


def draw(seed, scale=3.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(6, 4, generator=generator, dtype=dtype)
    return logits, torch.randint(4, (6,), generator=generator)


@given(seeds, st.sampled_from([0.0, 0.05, 0.3]), st.sampled_from([(0.0, 0.0), (3.0, 1.5)]))
def test_sigmoid_form_is_the_published_formula(seed, margin, gammas):
    logits, target = draw(seed)
    p = logits.sigmoid()
    shifted = (p - margin).clamp(min=0.0)
    positive, negative = (1 - p) ** gammas[1] * p.log(), shifted ** gammas[0] * (1 - shifted).log()
    y = one_hot(target, logits.shape[1])
    loss = asymmetric(
        logits, target, gamma_negative=gammas[0], gamma_positive=gammas[1], margin=margin
    )
    torch.testing.assert_close(loss, -(y * positive + (1 - y) * negative).sum(dim=1))


def test_negatives_under_the_margin_get_no_gradient():
    logits = torch.tensor([[0.95, 0.04, 0.06]]).logit().requires_grad_()
    FORMS["sigmoid"](
        logits, torch.tensor([0]), gamma_negative=1.0, gamma_positive=0.0
    ).sum().backward()
    assert logits.grad[0, 1] == 0.0
    assert logits.grad[0, 2] > 0.0


@forms
@pytest.mark.parametrize("gammas", [(0.0, 0.0), (4.0, 1.0), (4.0, 0.0), (0.5, 0.5)])
@pytest.mark.parametrize("size", [50.0, 1000.0])
@pytest.mark.parametrize("target", [0, 1])
def test_extreme_logits_are_finite(form, gammas, size, target):
    logits = torch.tensor([[size, -size]], requires_grad=True)
    loss = form(logits, torch.tensor([target]), gamma_negative=gammas[0], gamma_positive=gammas[1])
    loss.sum().backward()
    assert loss.isfinite().all()
    assert logits.grad.isfinite().all()
    if gammas != (0.0, 0.0) or form is not FORMS["softmax"]:  # smoothing costs, if unfocused
        assert (loss > 1.0).all() == (target == 1)


def test_a_surely_wrong_target_gets_gradient():
    logits = torch.tensor([[-50.0, 0.0]], requires_grad=True)
    FORMS["sigmoid"](logits, torch.tensor([0]), **FOCUS).sum().backward()
    assert float(logits.grad[0, 0]) == pytest.approx(-1.0)


@forms
def test_gradient_includes_the_focusing_weight(form):
    logits, target = draw(1, scale=2.0)
    assert torch.autograd.gradcheck(lambda x: form(x, target, **FOCUS), (logits.requires_grad_(),))


@pytest.mark.parametrize("target", [3, -1])
def test_a_target_outside_the_classes_is_refused(target):
    with pytest.raises((RuntimeError, IndexError)):
        FORMS["sigmoid"](torch.zeros(1, 3), torch.tensor([target]), **FOCUS)


@given(seeds, st.floats(0.0, 6.0), st.floats(0.0, 1.0))
def test_softmax_form_without_focus_is_cross_entropy(seed, gamma_negative, smoothing):
    logits, target = draw(seed)
    for gamma, smooth in ((gamma_negative, 0.0), (0.0, smoothing)):
        loss = asymmetric_single_label(
            logits, target, gamma_negative=gamma, gamma_positive=0.0, smoothing=smooth
        )
        expected = cross_entropy(logits, target, reduction="none", label_smoothing=smooth)
        torch.testing.assert_close(loss, expected)


@given(seeds, st.sampled_from([0.1, 3.0, 100.0]))
def test_no_form_is_negative(seed, scale):
    logits, target = draw(seed, scale=scale, dtype=torch.float32)
    for form in FORMS.values():
        assert (form(logits, target, **FOCUS) >= 0).all()
