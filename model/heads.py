"""From pooled statistics to the embedding and the three task posteriors."""

from __future__ import annotations

from torch import Tensor, nn

from model.labels import TASKS, LabelTree
from model.layers import PointwiseNorm


class TaskHeads(nn.Module):
    """Shared embedding (the paper's Z) and one linear classifier per task.

    Args:
        inputs: width of the pooled statistics.
        embedding: width of the embedding.
        tree: gives the class counts.
        dropout: on the embedding, training only.
    """

    def __init__(self, inputs: int, embedding: int, tree: LabelTree, dropout: float = 0.0) -> None:
        super().__init__()
        self.embed = PointwiseNorm(inputs, embedding)
        self.dropout = nn.Dropout(dropout)
        self.classify = nn.ModuleDict(
            {task: nn.Linear(embedding, len(tree.classes(task))) for task in TASKS}
        )

    def forward(self, pooled: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """[..., inputs] -> logits [..., classes] by task, and the embedding [..., E]."""
        embedding = self.embed(pooled)
        hidden = self.dropout(embedding.relu())
        return {task: self.classify[task](hidden) for task in TASKS}, embedding
