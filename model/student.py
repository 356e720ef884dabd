"""The student: raw 8 kHz samples in, running posteriors out, one state vector per call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.ecapa import COMPACT, Ecapa, EcapaConfig
from model.frontend import BINS, CONTEXT, HOP, LogMel
from model.heads import TaskHeads
from model.labels import DEFAULT_TREE, LabelTree

Augment = Callable[[Tensor], Tensor]

FRAMES_PER_BLOCK = 16
"""fbank frames of one block: 160 ms of speech between two posteriors."""
BLOCK = FRAMES_PER_BLOCK * HOP
"""Samples of one block."""


@dataclass(frozen=True)
class StudentConfig:
    """Everything needed to rebuild a student before loading its weights."""

    encoder: EcapaConfig = COMPACT
    embedding: int = 128
    dropout: float = 0.2
    tree: LabelTree = field(default=DEFAULT_TREE)

    def to_dict(self) -> dict[str, object]:
        """Plain form for checkpoints; :meth:`from_dict` reverses it."""
        return {
            "encoder": asdict(self.encoder),
            "embedding": self.embedding,
            "dropout": self.dropout,
            "tree": self.tree.to_dict(),
        }

    @staticmethod
    def from_dict(plain: dict[str, object]) -> StudentConfig:
        """Inverse of :meth:`to_dict`."""
        encoder = dict(plain["encoder"])  # type: ignore[call-overload]
        encoder["dilations"] = tuple(encoder["dilations"])
        return StudentConfig(
            encoder=EcapaConfig(**encoder),
            embedding=int(str(plain["embedding"])),
            dropout=float(str(plain["dropout"])),
            tree=LabelTree.from_dict(plain["tree"]),  # type: ignore[arg-type]
        )


class Output(NamedTuple):
    """What the student says after each block.

    Attributes:
        logits: by task, [B, n, classes]; row k knows blocks 0..k. n is 1 if not causal.
        embedding: [B, n, E].
        ended: [B, n], True where the block completes at least one frame of the utterance.
    """

    logits: dict[str, Tensor]
    embedding: Tensor
    ended: Tensor

    def last(self) -> dict[str, Tensor]:
        """Logits over each whole utterance, by task, [B, classes]."""
        index = (self.ended.sum(dim=1) - 1).clamp(min=0)
        rows = torch.arange(len(index))
        return {task: logits[rows, index] for task, logits in self.logits.items()}


class Student(nn.Module):
    """Front end, fixed normalisation, encoder, heads.

    ``forward`` is the offline pass over whole utterances; ``step`` advances calls by blocks. For
    a causal encoder they are the same computation.
    """

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.config = config
        self.frontend = LogMel()
        self.register_buffer("feature_mean", torch.full((BINS,), -6.0))
        self.register_buffer("feature_scale", torch.full((BINS,), 0.25))
        self.feature_mean: Tensor
        self.feature_scale: Tensor
        self.encoder = Ecapa(config.encoder)
        self.heads = TaskHeads(self.encoder.outputs, config.embedding, config.tree, config.dropout)

    @property
    def samples_per_frame(self) -> int:
        """Samples between two encoder frames."""
        return HOP * self.config.encoder.stem_stride

    @property
    def state_sizes(self) -> list[int]:
        """Sample context, count of encoder frames, encoder; the state vector is their sum."""
        return [CONTEXT, 1, sum(self.encoder.state_sizes)]

    @property
    def state_size(self) -> int:
        """D: floats of one call's state. Zeros are a call that has not begun."""
        return sum(self.state_sizes)

    def _features(self, samples: Tensor, augment: Augment | None = None) -> Tensor:
        features: Tensor = self.frontend(samples)
        if augment is not None:
            features = augment(features)
        return (features - self.feature_mean) * self.feature_scale

    def step(
        self, samples: Tensor, valid: Tensor, state: Tensor, augment: Augment | None = None
    ) -> tuple[Output, Tensor]:
        """Advance each call by n blocks.

        Args:
            samples: [B, n*BLOCK] in [-1, 1].
            valid: int64 [B]; samples from here on are padding. Only a call's last step may be
                short: a partial frame is not heard, and what follows would not join on.
            state: [B, D].
            augment: maps fbank frames [B, T, 80] to fbank frames, in training.

        Returns:
            Output for the n blocks, and the next state [B, D].
        """
        context, seen, before = state.split(self.state_sizes, dim=1)
        heard = torch.cat([context, samples], dim=1)
        per_block = BLOCK // self.samples_per_frame
        blocks = samples.shape[1] // BLOCK
        frames = torch.div(valid, self.samples_per_frame, rounding_mode="floor")
        order = torch.arange(blocks * per_block).reshape(1, blocks, per_block)
        valid_frames = order < frames[:, None, None]
        mask = valid_frames.to(samples.dtype)[..., None]
        pooled, after = self.encoder.step(self._features(heard, augment), mask, seen, before)
        logits, embedding = self.heads(pooled)
        seen = seen + frames[:, None].to(samples.dtype)
        state = torch.cat([heard[:, -CONTEXT:], seen, after], dim=1)
        return Output(logits, embedding, valid_frames[..., 0]), state

    def forward(self, samples: Tensor, lengths: Tensor, augment: Augment | None = None) -> Output:
        """Whole utterances.

        Args:
            samples: [B, L] in [-1, 1], zero-padded at the end.
            lengths: int64 [B], samples of each utterance.
            augment: maps fbank frames [B, T, 80] to fbank frames, in training.

        Returns:
            Output after every block (causal) or once over the whole (not causal).
        """
        samples = nn.functional.pad(samples, (0, -samples.shape[1] % BLOCK))
        if self.config.encoder.causal:
            zeros = samples.new_zeros(samples.shape[0], self.state_size)
            return self.step(samples, lengths, zeros, augment)[0]
        features = self._features(nn.functional.pad(samples, (CONTEXT, 0)), augment)
        count = features.shape[1] // self.config.encoder.stem_stride
        inside = torch.arange(count) < (lengths // self.samples_per_frame)[:, None]
        mask = inside.to(samples.dtype)[..., None]
        fine = mask.repeat_interleave(self.config.encoder.stem_stride, dim=1)
        pooled = self.encoder(features * fine, mask)
        logits, embedding = self.heads(pooled[:, None])
        return Output(logits, embedding, inside.any(dim=1, keepdim=True))
