"""The total loss: which terms there are, what each is worth, and where its gradient goes."""

import math
from dataclasses import fields, replace

import pytest
import torch

from model.classifier import ClassifierOutput
from model.labels import DEFAULT_TREE, TASKS, LabelTree
from train.data.batching import UNKNOWN
from train.method.objective import DistillationTargets, Objective, prefix_weights, total_objective

TREE = LabelTree(
    gender=("female", "male"),
    bands={"young": ("20s", "30s"), "old": ("60+",)},
    lower_age={"20s": 0, "30s": 30, "60+": 60},
)
PLAIN = Objective(label_smoothing=0.0, age_band_weight=1.0)
EVERYTHING = Objective(
    distillation="mse", dependency="smooth", invariance_weight=0.5, age_loss="asymmetric"
)
POSTERIORS = {"gender": [0.75, 0.25], "age_group": [0.4, 0.6], "age_band": [0.5, 0.3, 0.2]}
TRUTH = {"gender": 0, "age_group": 0, "age_band": 1}


def output_of(posteriors=POSTERIORS, prior_logits=()):
    """Output of a student for one utterance of one block."""
    logits = {task: torch.tensor([[p]]).log().requires_grad_() for task, p in posteriors.items()}
    first = {task: torch.tensor([[posteriors[task]]]).log() for task in prior_logits}
    return ClassifierOutput(logits, torch.zeros(1, 1, 3), torch.ones(1, 1, dtype=torch.bool), first)


def labels(**changes):
    return {task: torch.tensor([index]) for task, index in {**TRUTH, **changes}.items()}


def anything(rows, blocks=4, *, seed=0, prior_logits=True, tree=TREE):
    """Random logits of ``rows`` utterances, of which the last block of the first is padding."""
    torch.manual_seed(seed)
    logits = {t: torch.randn(rows, blocks, len(tree.classes(t)), requires_grad=True) for t in TASKS}
    block_mask = torch.ones(rows, blocks, dtype=torch.bool)
    block_mask[0, -1] = False
    first = {"gender": logits["gender"] * 2, "age_band": logits["age_band"] * 2}
    prior = first if prior_logits else {}
    return ClassifierOutput(logits, torch.randn(rows, blocks, 3), block_mask, prior)


def rows_of(output, rows):
    return ClassifierOutput(
        {task: values[rows] for task, values in output.logits.items()},
        output.embedding[rows],
        output.block_mask[rows],
        {task: values[rows] for task, values in output.prior_logits.items()},
    )


def terms(objective, output=None, targets=None, **more):
    found = total_objective(
        objective, output or output_of(), labels() if targets is None else targets, TREE, **more
    )
    return {name: value.item() for name, value in found.items()}


def test_prefix_weights_by_hand():
    weights = prefix_weights(torch.tensor([[True, True, False], [False, False, False]]))
    assert weights[0].tolist() == pytest.approx([1 / 3, 2 / 3, 0.0])  # 0.32 s and 0.64 s of 2 s
    assert weights[1].tolist() == [0.0, 0.0, 0.0]
    long = prefix_weights(torch.ones(1, 30, dtype=torch.bool))[0]
    assert long[-1] == pytest.approx(float(long[6]))
    assert long[0] == pytest.approx(0.16 * float(long[-1]))


LOG = {p: math.log(p) for p in (0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75)}
SINGLE = {"age_loss": "asymmetric-single", "gamma_negative": 2.0, "gamma_positive": 1.0}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"gender": -LOG[0.75], "age_group": -LOG[0.4], "age_band": -LOG[0.3]}),
        (
            {"age_group_weight": 2.0, "age_band_weight": 0.5},
            {"age_group": -2.0 * LOG[0.4], "age_band": -0.5 * LOG[0.3]},
        ),
        (
            {"label_smoothing": 0.2},
            {
                "gender": -0.9 * LOG[0.75] - 0.1 * LOG[0.25],
                "age_band": -0.8 * LOG[0.3] - 0.2 / 3 * (LOG[0.5] + LOG[0.3] + LOG[0.2]),
            },
        ),
        (  # the margin is the sigmoid form's
            SINGLE | {"label_smoothing": 0.3, "margin": 0.9},
            {"age_band": -0.8 * 0.7 * LOG[0.3] - 0.1 * (0.5**2 * LOG[0.5] + 0.2**2 * LOG[0.2])},
        ),
        (
            {"glance_weight": 0.2},
            {"glance_gender": -0.2 * LOG[0.75], "glance_age_band": -0.2 * LOG[0.3]},
        ),
    ],
)
def test_terms_by_hand(changes, expected):
    prior = ("gender", "age_band") if "glance_weight" in changes else ()
    found = terms(replace(PLAIN, **changes), output_of(prior_logits=prior))
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    names = ["gender", "age_group", "age_band"]
    assert list(found) == [*names, *(name for name in expected if name not in names)]


def test_prefixes_enter_by_their_weight():
    output = anything(1, blocks=3, prior_logits=False)
    found = total_objective(PLAIN, output, labels(), TREE)
    for task, index in TRUTH.items():
        each = -output.logits[task].detach()[0].log_softmax(dim=1)[:, index]
        assert found[task].item() == pytest.approx(float(each[0] + 2 * each[1]) / 3, rel=1e-5)


def test_asymmetric_loss_by_hand():
    output = output_of()
    odds = {"age_group": [0.4, 0.6], "age_band": [0.5, 0.3, 0.2]}
    sigmoid = {task: torch.tensor([[p]]).logit() for task, p in odds.items()}
    objective = replace(
        PLAIN, age_loss="asymmetric", gamma_negative=2.0, gamma_positive=1.0, margin=0.1
    )
    found = terms(objective, output._replace(logits=output.logits | sigmoid))
    other = -(0.5**2) * math.log(0.5)  # 0.6 less the margin
    assert found["age_group"] == pytest.approx(-0.6 * math.log(0.4) + other)
    others = -(0.4**2) * math.log(0.6) - 0.1**2 * math.log(0.9)
    assert found["age_band"] == pytest.approx(-0.7 * math.log(0.3) + others)
    assert found["gender"] == pytest.approx(-math.log(0.75))  # stays as it is


def test_dependency_by_hand():
    # the group is "old", the band is a child of "young": apart, and both are wrong
    repaired = replace(PLAIN, dependency="repaired", dependency_weight=0.5)
    group, band = -math.log(0.4), -math.log(0.3)
    assert terms(repaired)["dependency"] == pytest.approx(0.5 * ((1 + group) * (1 + band) - 1))
    literal = replace(repaired, dependency="literal")
    assert terms(literal)["dependency"] == pytest.approx(-0.5 * group * band)
    one_wrong = output_of({**POSTERIORS, "age_group": [0.6, 0.4], "age_band": [0.3, 0.1, 0.6]})
    assert terms(repaired, one_wrong)["dependency"] == pytest.approx(-0.5 * math.log(0.1))
    smooth = replace(repaired, dependency="smooth")
    agree = 0.8 * 0.4 + 0.2 * 0.6
    assert terms(smooth)["dependency"] == pytest.approx(-0.5 * math.log(agree))


def test_dependency_uses_the_minimised_losses():
    objective = replace(PLAIN, dependency="repaired", age_loss="asymmetric", dependency_weight=1.0)
    found = terms(replace(objective, age_group_weight=2.0, age_band_weight=3.0))
    group, band = found["age_group"] / 2, found["age_band"] / 3
    assert found["dependency"] == pytest.approx((1 + group) * (1 + band) - 1, rel=1e-5)


def taught(student, teacher, known=True):
    return DistillationTargets(
        torch.tensor([[student]]), torch.tensor([teacher]), torch.tensor([known])
    )


def test_distillation_by_hand_and_by_its_weight():
    pair = taught([1.0, 2.0], [3.0, 1.0])
    mse = replace(PLAIN, distillation="mse", distillation_weight=3.0)
    assert terms(mse, taught=pair)["distillation"] == pytest.approx(3 * 2.5)
    cosine = replace(PLAIN, distillation="cosine", distillation_weight=0.1)
    expected = 0.1 * (1 - 5 / math.sqrt(50))
    assert terms(cosine, taught=pair)["distillation"] == pytest.approx(expected, rel=1e-4)
    unknown = taught([1.0, 2.0], [3.0, 1.0], known=False)
    assert terms(mse, taught=unknown)["distillation"] == 0.0


def test_every_prefix_is_drawn_to_the_same_twin():
    student = torch.tensor([[[1.0, 0.0], [0.0, 0.0], [9.0, 9.0]]])
    output = anything(1, blocks=3)  # the third block is padding
    pair = DistillationTargets(student, torch.tensor([[3.0, 0.0]]), torch.tensor([True]))
    found = terms(replace(PLAIN, distillation="mse"), output, taught=pair)
    assert found["distillation"] == pytest.approx((2.0 + 2 * 4.5) / 3)


def test_invariance_by_hand():
    plain = output_of({**POSTERIORS, "gender": [0.5, 0.5], "age_group": [0.6, 0.4]})
    found = terms(replace(PLAIN, invariance_weight=0.5), plain=plain)
    gender = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    group = 0.6 * math.log(0.6 / 0.4) + 0.4 * math.log(0.4 / 0.6)
    assert found["invariance"] == pytest.approx(0.5 * (gender + group), rel=1e-5)


def test_invariance_is_zero_for_equal_outputs_and_needs_no_label():
    unknown = labels(gender=UNKNOWN, age_group=UNKNOWN, age_band=UNKNOWN)
    objective, plain = replace(PLAIN, invariance_weight=2.0), output_of()
    assert terms(objective, targets=unknown, plain=plain)["invariance"] == pytest.approx(
        0, abs=1e-6
    )
    plain = output_of({**POSTERIORS, "gender": [0.5, 0.5]})
    assert terms(objective, targets=unknown, plain=plain)["invariance"] > 0.01


def targets_of(rows):
    return {task: torch.arange(rows) % len(TREE.classes(task)) for task in TASKS}


def everything(rows, seed=0):
    """ClassifierOutput, targets, twins and plain output of utterances for every term."""
    output, plain = anything(rows, seed=seed), anything(rows, seed=seed + 1)
    twins = DistillationTargets(
        torch.randn(rows, 4, 5, requires_grad=True),
        torch.randn(rows, 5, requires_grad=True),
        torch.ones(rows, dtype=torch.bool),
    )
    return output, targets_of(rows), twins, plain


def test_terms_come_in_the_papers_order():
    output, targets, twins, plain = everything(3)
    found = total_objective(EVERYTHING, output, targets, TREE, taught=twins, plain=plain)
    order = "distillation gender age_group age_band dependency invariance"
    assert list(found) == [*order.split(), "glance_gender", "glance_age_band"]


@pytest.mark.parametrize("dependency", ["repaired", "smooth", "literal"])
@pytest.mark.parametrize("age_loss", ["cross-entropy", "asymmetric", "asymmetric-single"])
def test_unknown_labels_neither_count_nor_dilute(dependency, age_loss):
    objective = replace(EVERYTHING, dependency=dependency, age_loss=age_loss, invariance_weight=0.0)
    output, targets, twins, _ = everything(4)
    targets = {task: target.clone() for task, target in targets.items()}
    for target in targets.values():
        target[1] = UNKNOWN
    twins.known[1] = False
    found = total_objective(objective, output, targets, TREE, taught=twins)
    others = [0, 2, 3]
    without = total_objective(
        objective,
        rows_of(output, others),
        {task: target[others] for task, target in targets.items()},
        TREE,
        taught=DistillationTargets(
            *(part[others] for part in (twins.student, twins.teacher, twins.known))
        ),
    )
    assert found.keys() == without.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, without[name], msg=name)
    torch.stack(list(found.values())).sum().backward()
    for learning in (*output.logits.values(), twins.student):
        assert not learning.grad[1].any()
        assert learning.grad[0].any()


def test_unknown_labels_give_zero_and_not_nan():
    output, _, twins, _ = everything(2)
    twins.known[:] = False
    unknown_labels = {task: torch.full((2,), UNKNOWN) for task in TASKS}
    objective = replace(EVERYTHING, invariance_weight=0.0)
    found = total_objective(objective, output, unknown_labels, TREE, taught=twins)
    assert len(found) == 7
    assert not any(found.values())


def test_gradient_reaches_the_student_only():
    output, targets, twins, plain = everything(3)
    found = total_objective(EVERYTHING, output, targets, TREE, taught=twins, plain=plain)
    torch.stack(list(found.values())).sum().backward()
    for learning in (*output.logits.values(), twins.student):
        assert learning.grad.any()
        assert learning.grad.isfinite().all()
    assert twins.teacher.grad is None
    assert all(values.grad is None for values in plain.logits.values())
    for values in output.logits.values():
        assert not values.grad[0, -1].any()  # padding


def test_a_student_of_another_tree_is_refused():
    with pytest.raises(ValueError, match="age_group: 4 logits for"):
        terms(PLAIN, anything(3, tree=DEFAULT_TREE), targets_of(3))
    fewer = {**POSTERIORS, "age_band": [0.5, 0.5]}
    with pytest.raises(ValueError, match="age_band: 2 logits for"):
        terms(replace(PLAIN, dependency="repaired"), output_of(fewer), labels(age_band=0))


@pytest.mark.parametrize(
    "name", [field.name for field in fields(Objective) if field.type == "float"]
)
def test_values_out_of_range_are_named(name):
    shares = [1.0] if name in ("margin", "label_smoothing") else []
    for value in (-0.1, math.nan, *shares):
        with pytest.raises(ValueError, match=f"{name} {value}"):
            Objective(**{name: value})
