"""One training step's worth of computation: augment, mix up, judge, and say what was wrong."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from model.classifier import ClassifierOutput, SpeakerClassifier
from train.method.mixup import TemporalFrequencyMixup
from train.method.objective import DistillationTargets, Objective, total_objective


class TrainingStep(nn.Module):
    """The student with everything that only training needs; one module, so that DDP wraps it.

    Args:
        student: to be trained.
        objective: which terms.
        augment: channel tilt and frequency masks of fbank frames; part of the style that the
            prediction shall not depend on.
        mixup: stage 1, or None.
        taught: width of the teacher's embedding; 0 without distillation.
        compiled: trace the student with torch.compile: half the time, after a minute.
    """

    def __init__(
        self,
        student: SpeakerClassifier,
        objective: Objective,
        *,
        augment: nn.Module,
        mixup: TemporalFrequencyMixup | None = None,
        taught: int = 0,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        self.student = student
        self.objective = objective
        self.augment = augment
        self.mixup = mixup
        self.project = nn.Linear(student.config.heads.embedding, taught) if taught else None
        forward: Callable[[Tensor, Tensor], ClassifierOutput] = student.forward_features
        self._forward = torch.compile(forward) if compiled else forward

    def _plain(self, features: Tensor, lengths: Tensor) -> ClassifierOutput:
        """Current predictions of the student for the speech without style; no gradient."""
        self.student.eval()
        with torch.no_grad():
            output = self.student.forward_features(features, lengths)
        self.student.train()
        return output

    def forward(
        self,
        samples: Tensor,
        lengths: Tensor,
        targets: dict[str, Tensor],
        teacher: Tensor | None = None,
        known: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Weighted terms of the objective by name.

        Args:
            samples: [B, L] in [-1, 1].
            lengths: int64 [B].
            targets: int64 [B] by task.
            teacher: [B, E] embeddings of the clean twins.
            known: bool [B], False where there is no twin.
        """
        # Not in 16 bits: quiet bins lie 80 dB below the loud ones.
        with torch.autocast(samples.device.type, enabled=False):
            plain = self.student.features(samples.float())
            styled = self.augment(plain)
            if self.mixup is not None:
                frames = torch.div(lengths, self.student.frontend.hop, rounding_mode="floor")
                styled = self.mixup(styled, frames)
        output = self._forward(styled, lengths)
        taught = None
        if self.project is not None and teacher is not None and known is not None:
            taught = DistillationTargets(self.project(output.embedding), teacher, known)
        unstyled = self._plain(plain, lengths) if self.objective.invariance_weight else None
        with torch.autocast(samples.device.type, enabled=False):
            return total_objective(
                self.objective,
                _full(output),
                targets,
                self.student.config.tree,
                taught=None
                if taught is None
                else DistillationTargets(taught.student.float(), taught.teacher, taught.known),
                plain=None if unstyled is None else _full(unstyled),
            )


def _full(output: ClassifierOutput) -> ClassifierOutput:
    """The same in single precision: losses are not computed in 16 bits."""
    return output._replace(
        logits={task: values.float() for task, values in output.logits.items()},
        prior_logits={task: values.float() for task, values in output.prior_logits.items()},
    )
