import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from train.method.losses.invariance import invariance


def test_invariance_by_hand():
    plain = torch.tensor([[0.75, 0.25], [0.5, 0.5]]).log()
    styled = torch.tensor([[0.5, 0.5], [0.5, 0.5]]).log()
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert invariance(plain, styled).tolist() == pytest.approx([expected, 0.0], abs=1e-7)


def test_only_the_styled_side_learns():
    plain = torch.tensor([[1.0, 0.0]], requires_grad=True)
    styled = torch.tensor([[0.0, 1.0]], requires_grad=True)
    invariance(plain, styled).sum().backward()
    assert plain.grad is None
    gap = styled.detach().softmax(1) - plain.detach().softmax(1)
    torch.testing.assert_close(styled.grad, gap)


@given(st.integers(0, 2**31 - 1), st.sampled_from([0.1, 3.0, 1000.0]))
def test_invariance_is_finite_never_negative_and_blind_to_shifts(seed, scale):
    generator = torch.Generator().manual_seed(seed)
    plain, styled = scale * torch.randn(2, 8, 5, generator=generator, dtype=torch.float64)
    loss = invariance(plain, styled)
    assert loss.isfinite().all()
    assert (loss >= -1e-12).all()
    torch.testing.assert_close(invariance(plain + 7.0, styled - 3.0), loss)
    torch.testing.assert_close(invariance(plain, plain + 1.0), torch.zeros_like(loss))
