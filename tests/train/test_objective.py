import math

import pytest
import torch

from model.student import Output
from train.loading.batches import UNKNOWN
from train.objective import prefix_weights, supervised_multitask


def test_prefix_weights_by_hand():
    ended = torch.tensor([[True, True, False], [False, False, False]])
    weights = prefix_weights(ended)
    assert weights[0].tolist() == pytest.approx([1 / 3, 2 / 3, 0.0])  # 0.16 s to 0.32 s of 2 s
    assert weights[1].tolist() == [0.0, 0.0, 0.0]


def test_prefixes_beyond_two_seconds_count_the_same():
    weights = prefix_weights(torch.ones(1, 30, dtype=torch.bool))[0]
    assert weights[-1] == pytest.approx(float(weights[12]))
    assert weights[0] == pytest.approx(0.08 * float(weights[-1]))


def output(logits):
    ended = torch.ones(logits.shape[:2], dtype=torch.bool)
    return Output({"gender": logits}, torch.zeros(*logits.shape[:2], 1), ended)


def test_loss_of_one_prefix_is_cross_entropy():
    logits = torch.tensor([[[math.log(3.0), 0.0]]])
    loss = supervised_multitask(output(logits), {"gender": torch.tensor([0])}, label_smoothing=0.0)
    assert float(loss["gender"]) == pytest.approx(-math.log(0.75), rel=1e-5)


def test_unknown_labels_neither_count_nor_dilute():
    logits = torch.randn(3, 4, 2, requires_grad=True)
    targets = torch.tensor([0, UNKNOWN, 1])
    with_unknown = supervised_multitask(output(logits), {"gender": targets}, label_smoothing=0.1)
    known = logits[[0, 2]]
    without = supervised_multitask(output(known), {"gender": targets[[0, 2]]}, label_smoothing=0.1)
    torch.testing.assert_close(with_unknown["gender"], without["gender"])
    with_unknown["gender"].backward()
    assert not logits.grad[1].any()
    assert logits.grad[0].any()


def test_all_unknown_is_zero_not_nan():
    loss = supervised_multitask(
        output(torch.randn(2, 3, 2)), {"gender": torch.tensor([-1, -1])}, label_smoothing=0.1
    )
    assert float(loss["gender"]) == 0.0
