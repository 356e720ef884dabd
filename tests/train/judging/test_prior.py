"""Taking back the class prior: which shares, how much, and that it is only a bias."""

import numpy as np
import pytest
import torch

from model.ecapa import EcapaConfig
from model.heads import HeadsConfig
from model.labels import DEFAULT_TREE
from model.student import BLOCK, Student, StudentConfig
from train.judging.evaluate import Running
from train.judging.prior import ADJUSTED, adjustable, choose, class_prior, take_back
from train.loading.data import Cell, Split

SHAPE = EcapaConfig(channels=16, aggregated=24, attention=8, squeeze=8)


def test_shares_by_hand():
    cells = {
        ("female", "20s"): Cell(clips=100, mass=20.0),
        ("male", "40s"): Cell(clips=25, mass=10.0),
        ("male", ""): Cell(clips=50, mass=5.0),
    }
    prior = class_prior(Split(cells=cells), 0.5, DEFAULT_TREE)
    # 20 / 10 against 10 / 5: equal; no age, no share
    assert prior["age_band"][[2, 4]] == pytest.approx([0.5, 0.5])
    assert prior["age_group"][[1, 2]] == pytest.approx([0.5, 0.5])
    assert prior["age_group"].sum() == pytest.approx(1.0)


def running(logits, truth):
    logp = np.log(logits / logits.sum(axis=1, keepdims=True)).astype(np.float32)
    rows = [row[None] for row in logp]
    band = np.array([{0: 0, 1: 2, 2: 4, 3: 6}[t] for t in truth])
    bands = np.full((len(truth), 7), 1e-3, np.float32)
    bands[np.arange(len(truth)), band] = 1.0
    return Running(
        {"age_group": rows, "age_band": [np.log(b)[None] for b in bands]},
        {"age_group": np.array(truth), "age_band": band},
    )


PRIOR = {"age_group": np.array([0.05, 0.75, 0.15, 0.05]), "age_band": np.full(7, 1 / 7)}


def test_a_prior_that_drowns_the_rare_classes_is_taken_back():
    # evidence says senior and middle three times, the prior says young
    likelihood = np.ones((6, 4))
    truth = [3, 3, 2, 2, 1, 1]
    likelihood[np.arange(6), truth] = 3.0
    chosen = choose(running(likelihood * PRIOR["age_group"], truth), PRIOR, DEFAULT_TREE)
    assert chosen["age_group"]["tau"] > 0.4
    tried = {row["tau"]: row["f1"] for row in chosen["age_group"]["tried"]}
    assert tried[chosen["age_group"]["tau"]] == 1.0 > tried[0.0]


def test_without_gain_the_prior_is_kept():
    likelihood = np.full((4, 4), 1e-6)
    truth = [0, 1, 2, 3]
    likelihood[np.arange(4), truth] = 1.0
    chosen = choose(running(likelihood, truth), PRIOR, DEFAULT_TREE)
    assert {task: chosen[task]["tau"] for task in ADJUSTED} == {"age_group": 0.0, "age_band": 0.0}


@pytest.mark.parametrize("hierarchy", ["separate", "conveyed"])
def test_taking_back_shifts_the_logits_by_the_log_prior(hierarchy):
    torch.manual_seed(0)
    heads = HeadsConfig(embedding=16, hierarchy=hierarchy, hidden=8 * (hierarchy == "conveyed"))
    student = Student(StudentConfig(encoder=SHAPE, heads=heads)).eval()
    samples, lengths = 0.1 * torch.randn(2, BLOCK), torch.tensor([BLOCK, BLOCK])
    with torch.no_grad():
        before = student(samples, lengths).last()
        take_back(student, PRIOR, {"age_group": 0.5})
        after = student(samples, lengths).last()
    shift = torch.tensor(-0.5 * np.log(PRIOR["age_group"]), dtype=torch.float32)
    torch.testing.assert_close(after["age_group"] - before["age_group"], shift.expand(2, 4))
    for task in ("gender", "age_band"):
        assert torch.equal(after[task], before[task])


def test_a_marginalised_group_is_not_claimed_to_be_adjusted():
    heads = HeadsConfig(embedding=16, hierarchy="marginalised")
    assert adjustable(Student(StudentConfig(encoder=SHAPE, heads=heads))) == ["age_band"]
    assert adjustable(Student(StudentConfig(encoder=SHAPE))) == list(ADJUSTED)
