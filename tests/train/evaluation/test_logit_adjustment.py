"""Shifting the answers: what dev asks for, how little chance can do, and that it is only a bias."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.classifier import BLOCK, SpeakerClassifier, StudentConfig
from model.encoders.ecapa import EcapaConfig
from model.heads import HeadsConfig
from model.labels import DEFAULT_TREE
from train.evaluation.evaluate import Running
from train.evaluation.logit_adjustment import SHIFTED, WIDEST, apply, choose, shiftable

SHAPE = EcapaConfig(channels=16, aggregated=24, attention=8, squeeze=8)
PRIOR = np.array([0.05, 0.75, 0.15, 0.05])


def running(likelihood, truth):
    posterior = likelihood / likelihood.sum(axis=1, keepdims=True)
    rows = [row[None] for row in np.log(posterior).astype(np.float32)]
    band = np.array([{0: 0, 1: 2, 2: 4, 3: 6}[t] for t in truth])
    bands = np.full((len(truth), 7), 1e-3, np.float32)
    bands[np.arange(len(truth)), band] = 1.0
    return Running(
        {"age_group": rows, "age_band": [np.log(b)[None] for b in bands]},
        {"age_group": np.array(truth), "age_band": band},
    )


def test_a_prior_that_drowns_the_rare_classes_is_made_up_for():
    # the voice says four times senior or middle, the prior says young
    truth = [3, 3, 2, 2, 1, 1, 1]
    likelihood = np.ones((7, 4))
    likelihood[np.arange(7), truth] = 4.0
    found = choose(running(likelihood * PRIOR, truth), DEFAULT_TREE)["age_group"]
    assert found["f1"] == [pytest.approx(0.2, abs=0.02), 1.0]
    assert found["recall"][1] == 1.0
    # young is the commonest and stays; nobody is a child, and who is cannot be told
    assert (found["shift"]["young"], found["shift"]["child"]) == (0.0, 0.0)
    assert found["shift"]["senior"] > found["shift"]["middle"] >= 0.0


def test_without_gain_nothing_is_shifted():
    likelihood = np.full((4, 4), 1e-6)
    truth = [0, 1, 2, 3]
    likelihood[np.arange(4), truth] = 1.0
    chosen = choose(running(likelihood, truth), DEFAULT_TREE)
    for task in SHIFTED:
        assert set(chosen[task]["shift"].values()) == {0.0}
        assert chosen[task]["f1"] == [1.0, 1.0]


def test_one_utterance_of_hundreds_shifts_nothing():
    """A gain that small may be chance; each nat has its price."""
    likelihood = np.tile([0.01, 0.9, 0.08, 0.01], (400, 1))
    truth = [1] * 200 + [2] * 200
    likelihood[200:] = [0.01, 0.08, 0.9, 0.01]
    likelihood[399] = [0.01, 0.5, 0.48, 0.01]  # a shift of a quarter would mend this one
    found = choose(running(likelihood, truth), DEFAULT_TREE)["age_group"]
    assert set(found["shift"].values()) == {0.0}


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_on_dev_it_is_never_worse_and_within_bounds(seed):
    random = np.random.default_rng(seed)
    truth = random.integers(0, 4, 40).tolist()
    found = choose(running(random.dirichlet(np.ones(4), 40) * PRIOR, truth), DEFAULT_TREE)
    for task in SHIFTED:
        before, after = found[task]["f1"]
        assert after >= before
        assert max(map(abs, found[task]["shift"].values())) <= WIDEST


@pytest.mark.parametrize("hierarchy", ["separate", "conveyed"])
def test_it_moves_the_logits_of_its_task_alone(hierarchy):
    torch.manual_seed(0)
    heads = HeadsConfig(embedding=16, hierarchy=hierarchy, hidden=8 * (hierarchy == "conveyed"))
    student = SpeakerClassifier(StudentConfig(encoder=SHAPE, heads=heads)).eval()
    samples, lengths = 0.1 * torch.randn(2, BLOCK), torch.tensor([BLOCK, BLOCK])
    shift = {"child": 0.25, "young": 0.0, "middle": 0.5, "senior": -0.75}
    with torch.no_grad():
        before = student(samples, lengths).last()
        apply(student, {"age_group": {"shift": shift}})
        after = student(samples, lengths).last()
    moved = torch.tensor(list(shift.values()))
    torch.testing.assert_close(after["age_group"] - before["age_group"], moved.expand(2, 4))
    for task in ("gender", "age_band"):
        assert torch.equal(after[task], before[task])


def test_a_marginalised_group_is_not_claimed_to_be_shifted():
    heads = HeadsConfig(embedding=16, hierarchy="marginalised")
    assert shiftable(SpeakerClassifier(StudentConfig(encoder=SHAPE, heads=heads))) == ["age_band"]
    assert shiftable(SpeakerClassifier(StudentConfig(encoder=SHAPE))) == list(SHIFTED)
