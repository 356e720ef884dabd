"""What training minimises: the paper's total loss, term by term (poster; paper.md section 2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from model.classifier import BLOCK, ClassifierOutput
from model.labels import LabelTree
from streamer.audio.codec import SAMPLE_RATE
from train.data.batching import UNKNOWN
from train.method.losses import dependency
from train.method.losses.asymmetric import asymmetric, asymmetric_single_label
from train.method.losses.distillation import feature_cosine, feature_mse
from train.method.losses.invariance import invariance

AgeLoss = Literal["cross-entropy", "asymmetric", "asymmetric-single"]
Dependency = Literal["none", "repaired", "smooth", "literal"]
Distillation = Literal["none", "mse", "cosine"]

FULL_WEIGHT_SECONDS = 2.0
"""From here on every prefix of a call counts the same; shorter ones count in proportion."""


@dataclass(frozen=True)
class Objective:
    """Which terms there are, and how much each counts. The paper publishes no weight.

    Attributes:
        distillation: distance of the student's representation to the teacher's.
        distillation_weight: the poster's lambda.
        age_loss: of both age levels: plain, the poster's sigmoid form, or the single-label form.
        gamma_negative, gamma_positive, margin: of the asymmetric losses.
        label_smoothing: of cross-entropy and of the single-label form.
        age_group_weight, age_band_weight: of the two levels.
        dependency: penalty for predictions that contradict the hierarchy.
        dependency_weight: of it.
        invariance_weight: of the divergence between predictions on plain and on styled speech.
        glance_weight: of the first look that asks the dictionary K.

    Raises:
        ValueError: a value out of range; the message names the field.
    """

    distillation: Distillation = "none"
    distillation_weight: float = 1.0
    age_loss: AgeLoss = "cross-entropy"
    gamma_negative: float = 4.0
    gamma_positive: float = 1.0
    margin: float = 0.05
    label_smoothing: float = 0.05
    age_group_weight: float = 1.0
    age_band_weight: float = 0.7
    dependency: Dependency = "none"
    dependency_weight: float = 0.3
    invariance_weight: float = 0.0
    glance_weight: float = 0.3

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, float | int) and not value >= 0:
                raise ValueError(f"{name} {value} is negative")
        for name in ("margin", "label_smoothing"):
            if getattr(self, name) >= 1:
                raise ValueError(f"{name} {getattr(self, name)} is not below 1")


def prefix_weights(block_mask: Tensor) -> Tensor:
    """[B, n] weight of the posterior after each block; rows of speechless utterances are zero.

    The running posterior is supervised at every block, because a caller is judged while still
    talking; the first syllables are too ambiguous to count in full.
    """
    order = torch.arange(block_mask.shape[1], device=block_mask.device)
    seconds = (order + 1) * (BLOCK / SAMPLE_RATE)
    weight = (seconds / FULL_WEIGHT_SECONDS).clamp(max=1.0) * block_mask
    return weight / weight.sum(dim=1, keepdim=True).clamp(min=1e-6)


def _mean(each: Tensor, weights: Tensor, known: Tensor) -> Tensor:
    """Mean over the known utterances [B] of ``each`` [B * n], prefixes by ``weights`` [B, n]."""
    inside = each.reshape(weights.shape) * weights * known[:, None]
    return inside.sum() / known.sum().clamp(min=1)


def _age(objective: Objective, logits: Tensor, target: Tensor) -> Tensor:
    """[N] loss of one level of the age hierarchy."""
    if objective.age_loss == "cross-entropy":
        smoothing = objective.label_smoothing
        return cross_entropy(logits, target, reduction="none", label_smoothing=smoothing)
    gammas = {
        "gamma_negative": objective.gamma_negative,
        "gamma_positive": objective.gamma_positive,
    }
    if objective.age_loss == "asymmetric":
        return asymmetric(logits, target, **gammas, margin=objective.margin)
    smoothing = objective.label_smoothing
    return asymmetric_single_label(logits, target, **gammas, smoothing=smoothing)


@dataclass(frozen=True)
class DistillationTargets:
    """What the teacher knows of the utterances of a batch.

    Attributes:
        student: [B, n, E] the student's representation, projected into the teacher's space.
        teacher: [B, E] the teacher's, of the clean twins.
        known: bool [B], False where an utterance has no clean twin.
    """

    student: Tensor
    teacher: Tensor
    known: Tensor


def total_objective(
    objective: Objective,
    output: ClassifierOutput,
    targets: Mapping[str, Tensor],
    tree: LabelTree,
    *,
    taught: DistillationTargets | None = None,
    plain: ClassifierOutput | None = None,
) -> dict[str, Tensor]:
    """The paper's terms in the paper's order, weighted; their sum is what is minimised.

    ``L_total = λ L_dist(S, T) + L_CE(H_gender, Y_gender) + L_asl(H_agesup, Y_agesup)
    + L_asl(H_agesub, Y_agesub) + L_dep(H_agesup, H_agesub)``, and what the poster's causal graph
    asks for beside it: the invariance of Z -> H -> Y, and the prior logits of X -> Z <- K.

    Args:
        objective: which terms.
        output: of the student on what it is trained on (mixed up, if stage 1 is on).
        targets: int64 [B] by task, -1 where unknown; such utterances are left out of that term.
        tree: the age hierarchy.
        taught: needed by the distillation.
        plain: of the same student on the speech before mixup and masks; needed by the invariance.

    Returns:
        Scalars by name; terms that are switched off are absent.

    Raises:
        ValueError: the student has other classes than the tree.
    """
    for task, values in output.logits.items():
        if values.shape[-1] != len(tree.classes(task)):
            raise ValueError(f"{task}: {values.shape[-1]} logits for {tree.classes(task)}")
    weights = prefix_weights(output.block_mask)
    blocks = weights.shape[1]
    logits = {task: values.flatten(0, 1) for task, values in output.logits.items()}
    known = {task: target != UNKNOWN for task, target in targets.items()}
    targets = {
        task: target.clamp(min=0).repeat_interleave(blocks) for task, target in targets.items()
    }
    terms: dict[str, Tensor] = {}

    if objective.distillation != "none" and taught is not None:
        distance = feature_mse if objective.distillation == "mse" else feature_cosine
        teacher = taught.teacher.repeat_interleave(blocks, dim=0)
        each = distance(taught.student.flatten(0, 1), teacher)
        terms["distillation"] = objective.distillation_weight * _mean(each, weights, taught.known)

    gender = cross_entropy(
        logits["gender"],
        targets["gender"],
        reduction="none",
        label_smoothing=objective.label_smoothing,
    )
    terms["gender"] = _mean(gender, weights, known["gender"])

    group = _age(objective, logits["age_group"], targets["age_group"])
    terms["age_group"] = objective.age_group_weight * _mean(group, weights, known["age_group"])

    band = _age(objective, logits["age_band"], targets["age_band"])
    terms["age_band"] = objective.age_band_weight * _mean(band, weights, known["age_band"])

    if objective.dependency != "none":
        parent = torch.tensor(tree.parent, device=band.device)
        if objective.dependency == "smooth":
            each = dependency.smooth(logits["age_band"], logits["age_group"], parent)
        else:
            form = {"repaired": dependency.repaired, "literal": dependency.literal}
            each = form[objective.dependency](
                logits["age_band"],
                logits["age_group"],
                band,
                group,
                targets["age_band"],
                targets["age_group"],
                parent,
            )
        terms["dependency"] = objective.dependency_weight * _mean(each, weights, known["age_band"])

    everyone = torch.ones_like(known["gender"])
    if objective.invariance_weight and plain is not None:
        terms["invariance"] = (
            objective.invariance_weight
            * torch.stack(
                [
                    _mean(invariance(plain.logits[task].flatten(0, 1), values), weights, everyone)
                    for task, values in logits.items()
                ]
            ).sum()
        )

    for task, values in output.prior_logits.items():
        each = cross_entropy(values.flatten(0, 1), targets[task], reduction="none")
        terms[f"glance_{task}"] = objective.glance_weight * _mean(each, weights, known[task])
    return terms
