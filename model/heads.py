"""From pooled statistics to the embedding and the three task posteriors.

Plain heads are one linear classifier per task. The causal ones follow the poster's three chains:
X -> Z <- K (prior knowledge joins the embedding), Z -> H -> Y (a hidden representation per task)
and Y -> H -> Y (the subclass tells the superclass).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from model.labels import TASKS, LabelTree
from model.layers import PointwiseNorm


@dataclass(frozen=True)
class HeadsConfig:
    """What lies between the pooled statistics and the posteriors.

    Attributes:
        embedding: width of X, the student's representation.
        dropout: before the classifiers, training only.
        hierarchy: how the age group follows from the age band: "separate" (it does not),
            "conveyed" (Y -> H -> Y) or "marginalised" (the sum of its bands' posteriors).
        hidden: width of each task's H; 0 classifies Z itself.
        knowledge: width of the rows of the dictionary K, a teacher's embedding; 0 leaves K out.

    Raises:
        ValueError: a combination that cannot be built; the message names the field.
    """

    embedding: int = 128
    dropout: float = 0.2
    hierarchy: Literal["separate", "conveyed", "marginalised"] = "separate"
    hidden: int = 0
    knowledge: int = 0

    def __post_init__(self) -> None:
        if self.hierarchy == "conveyed" and not self.hidden:
            raise ValueError("hierarchy 'conveyed' passes on a hidden representation: set hidden")


class PriorKnowledge(nn.Module):
    """X -> Z <- K without a teacher: a dictionary of what a teacher knows of each kind of speaker.

    The embedding glances at who it might be, and what the teacher knows of such speakers on
    average joins it: ``k = sum_c a_c(x) K_c``, ``Z = relu(A x + B k)``, the one-point form of the
    backdoor adjustment (paper.md 2.4; Deng & Zhang 2021). K is a constant of the exported graph.

    Args:
        embedding: width of X and Z.
        width: of the rows of K.
        tree: kinds are gender x age band, band fastest.
    """

    def __init__(self, embedding: int, width: int, tree: LabelTree) -> None:
        super().__init__()
        self.gender = nn.Linear(embedding, len(tree.gender))
        self.band = nn.Linear(embedding, len(tree.age_band))
        kinds = len(tree.gender) * len(tree.age_band)
        self.register_buffer("dictionary", torch.zeros(kinds, width))
        self.dictionary: Tensor
        self.join = PointwiseNorm(embedding + width, embedding)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """x [..., E] -> Z [..., E] and the prior_logits's logits by task."""
        hidden = x.relu()
        prior_logits = {"gender": self.gender(hidden), "age_band": self.band(hidden)}
        # Detached: the first look is trained on labels, not to fetch convenient rows.
        genders = prior_logits["gender"].detach().softmax(dim=-1)[..., :, None]
        bands = prior_logits["age_band"].detach().softmax(dim=-1)[..., None, :]
        known = (genders * bands).flatten(-2) @ self.dictionary
        return self.join(torch.cat([x, known], dim=-1)), prior_logits


class TaskHeads(nn.Module):
    """Embedding, and the posteriors' logits.

    Args:
        inputs: width of the pooled statistics.
        config: shape.
        tree: gives the class counts.
    """

    def __init__(self, inputs: int, config: HeadsConfig, tree: LabelTree) -> None:
        super().__init__()
        self.config = config
        self.embed = PointwiseNorm(inputs, config.embedding)
        self.dropout = nn.Dropout(config.dropout)
        self.prior = (
            PriorKnowledge(config.embedding, config.knowledge, tree) if config.knowledge else None
        )
        width = config.hidden or config.embedding
        conveyed = config.hidden if config.hierarchy == "conveyed" else 0
        self.hidden = nn.ModuleDict()
        self.classify = nn.ModuleDict()
        for task in TASKS:
            superclass = task == "age_group"
            if superclass and config.hierarchy == "marginalised":
                continue
            if config.hidden:
                inside = config.embedding + (conveyed if superclass else 0)
                self.hidden[task] = nn.Linear(inside, config.hidden)
            self.classify[task] = nn.Linear(width, len(tree.classes(task)))
        child_of = torch.zeros(len(tree.age_group), len(tree.age_band))
        child_of[list(tree.parent), range(len(tree.age_band))] = 1.0
        self.register_buffer("child_of", child_of, persistent=False)
        self.child_of: Tensor

    def _represent(self, task: str, z: Tensor) -> Tensor:
        if not self.config.hidden:
            return z
        hidden: Tensor = self.hidden[task](z)
        return hidden.relu()

    def forward(self, pooled: Tensor) -> tuple[dict[str, Tensor], Tensor, dict[str, Tensor]]:
        """[..., inputs] -> logits [..., classes] by task, embedding [..., E], prior logits by task.

        The prior logits are empty without prior knowledge.
        """
        embedding = self.embed(pooled)
        z, prior_logits = (embedding, {}) if self.prior is None else self.prior(embedding)
        z = self.dropout(z.relu())
        band = self._represent("age_band", z)
        logits = {
            "gender": self.classify["gender"](self._represent("gender", z)),
            "age_band": self.classify["age_band"](band),
        }
        if self.config.hierarchy == "marginalised":
            posterior = logits["age_band"].softmax(dim=-1) @ self.child_of.t()
            logits["age_group"] = posterior.clamp(min=1e-9).log()
        else:
            features = torch.cat([z, band], dim=-1) if self.config.hierarchy == "conveyed" else z
            logits["age_group"] = self.classify["age_group"](self._represent("age_group", features))
        return {task: logits[task] for task in TASKS}, embedding, prior_logits
