"""The student: raw 8 kHz samples in, running posteriors out, one state vector per call.

A teacher is the same module with an offline encoder at 16 kHz.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from model.encoders import EncoderConfig, build_encoder, name_of
from model.encoders import from_dict as encoder_from_dict
from model.encoders import to_dict as encoder_to_dict
from model.encoders.ecapa import COMPACT
from model.frontend import BINS, HOP, SAMPLE_RATE, LogMel
from model.heads import HeadsConfig, TaskHeads
from model.labels import DEFAULT_TREE, LabelTree

FRAMES_PER_BLOCK = 32
"""fbank frames of one block: 320 ms of speech between two posteriors."""
BLOCK = FRAMES_PER_BLOCK * HOP
"""Samples of one block at 8 kHz."""


@dataclass(frozen=True)
class StudentConfig:
    """Everything needed to rebuild a student, or a teacher, before loading its weights.

    Raises:
        ValueError: a causal encoder at another rate than the server's.
    """

    encoder: EncoderConfig = COMPACT
    heads: HeadsConfig = field(default_factory=HeadsConfig)
    tree: LabelTree = field(default=DEFAULT_TREE)
    sample_rate: int = SAMPLE_RATE

    def __post_init__(self) -> None:
        if self.encoder.causal and self.sample_rate != SAMPLE_RATE:
            raise ValueError(f"sample_rate {self.sample_rate}: students hear {SAMPLE_RATE} Hz")

    @property
    def name(self) -> str:
        """Family and width, as in ``ecapa160``."""
        return name_of(self.encoder)

    def to_dict(self) -> dict[str, object]:
        """Plain form for checkpoints and metadata; :meth:`from_dict` reverses it."""
        return {
            "encoder": encoder_to_dict(self.encoder),
            "heads": asdict(self.heads),
            "tree": self.tree.to_dict(),
            "sample_rate": self.sample_rate,
        }

    @staticmethod
    def from_dict(plain: dict[str, Any]) -> StudentConfig:
        """Inverse of :meth:`to_dict`; also reads the flat form of files made before the heads."""
        flat = {key: plain[key] for key in ("embedding", "dropout") if key in plain}
        return StudentConfig(
            encoder=encoder_from_dict(plain["encoder"]),
            heads=HeadsConfig(**plain.get("heads", flat)),
            tree=LabelTree.from_dict(plain["tree"]),
            sample_rate=int(plain.get("sample_rate", SAMPLE_RATE)),
        )


class ClassifierOutput(NamedTuple):
    """Outputs after each block.

    Attributes:
        logits: by task, [B, n, classes]; row k knows blocks 0..k. n is 1 if not causal.
        embedding: [B, n, E].
        block_mask: [B, n], True where the block completes at least one frame of the utterance.
        prior_logits: logits of the first look by task, see :class:`model.heads.PriorKnowledge`.
    """

    logits: dict[str, Tensor]
    embedding: Tensor
    block_mask: Tensor
    prior_logits: dict[str, Tensor] = {}  # noqa: RUF012 - a tuple's default, never changed

    def last_index(self) -> Tensor:
        """int64 [B]: the row that knows the whole utterance."""
        return (self.block_mask.sum(dim=1) - 1).clamp(min=0)

    def last(self) -> dict[str, Tensor]:
        """Logits over each whole utterance, by task, [B, classes]."""
        index = self.last_index()
        rows = torch.arange(len(index), device=index.device)
        return {task: logits[rows, index] for task, logits in self.logits.items()}


class SpeakerClassifier(nn.Module):
    """Front end, fixed normalisation, encoder, heads.

    ``forward`` is the offline pass over whole utterances; ``step`` advances calls by blocks. For
    a causal encoder they are the same computation.
    """

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.config = config
        self.frontend = LogMel(config.sample_rate)
        self.context = self.frontend.window - self.frontend.hop
        self.block = FRAMES_PER_BLOCK * self.frontend.hop
        self.register_buffer("feature_mean", torch.full((BINS,), -6.0))
        self.register_buffer("feature_scale", torch.full((BINS,), 0.25))
        self.feature_mean: Tensor
        self.feature_scale: Tensor
        self.encoder = build_encoder(config.encoder)
        self.heads = TaskHeads(self.encoder.outputs, config.heads, config.tree)

    @property
    def samples_per_frame(self) -> int:
        """Samples between two encoder frames."""
        return self.frontend.hop * self.config.encoder.stem_stride

    @property
    def state_sizes(self) -> list[int]:
        """Sample context, count of encoder frames, encoder; the state vector is their sum."""
        return [self.context, 1, sum(self.encoder.state_sizes)]

    @property
    def state_size(self) -> int:
        """D: floats of one call's state. Zeros are a call that has not begun."""
        return sum(self.state_sizes)

    def step(
        self, samples: Tensor, valid: Tensor, state: Tensor
    ) -> tuple[ClassifierOutput, Tensor]:
        """Advance each call by n blocks.

        Args:
            samples: [B, n*BLOCK] in [-1, 1].
            valid: int64 [B]; samples from here on are padding. Only a call's last step may be
                short: a partial frame is dropped, and what follows would not join.
            state: [B, D].

        Returns:
            ClassifierOutput for the n blocks, and the next state [B, D].
        """
        pooled, block_mask, after = self.encode(samples, valid, state)
        return self._output(pooled, block_mask), after

    def encode(
        self, samples: Tensor, valid: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """:meth:`step` without the heads.

        Returns:
            Statistics of all speech after each block, [B, n, encoder.outputs]; which blocks
            complete a frame, [B, n]; the next state [B, D].
        """
        context, seen, before = state.split(self.state_sizes, dim=1)
        joined = torch.cat([context, samples], dim=1)
        frames = torch.div(valid, self.samples_per_frame, rounding_mode="floor")
        pooled, block_mask, after = self._encode(self.frontend(joined), frames, seen, before)
        seen = seen + frames[:, None].to(samples.dtype)
        after = torch.cat([joined[:, -self.context :], seen, after], dim=1)
        return pooled, block_mask, after

    def _output(self, pooled: Tensor, block_mask: Tensor) -> ClassifierOutput:
        logits, embedding, prior_logits = self.heads(pooled)
        return ClassifierOutput(logits, embedding, block_mask, prior_logits)

    def _encode(
        self, features: Tensor, frames: Tensor, seen: Tensor, before: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Encoder over n blocks: statistics and where a block has frames, [B, n]; next state.

        ``frames`` [B] encoder frames are valid.
        """
        features = (features - self.feature_mean) * self.feature_scale
        per_block = self.block // self.samples_per_frame
        blocks = features.shape[1] // FRAMES_PER_BLOCK
        order = torch.arange(blocks * per_block, device=features.device)
        valid = order.reshape(1, blocks, per_block) < frames[:, None, None]
        mask = valid.to(features.dtype)[..., None]
        pooled, after = self.encoder.step(features, mask, seen, before)
        return pooled, valid[..., 0], after

    def features(self, samples: Tensor) -> Tensor:
        """fbank of whole utterances, not yet normalised: [B, L] -> [B, T, 80], T = L / hop.

        L is rounded up to whole blocks.
        """
        padded = nn.functional.pad(samples, (self.context, -samples.shape[1] % self.block))
        frames: Tensor = self.frontend(padded)
        return frames

    def forward_features(self, features: Tensor, lengths: Tensor) -> ClassifierOutput:
        """Posteriors of whole utterances from their fbank, see :meth:`forward`.

        Args:
            features: [B, T, 80] as :meth:`features` gives them.
            lengths: int64 [B], samples of each utterance.
        """
        frames = torch.div(lengths, self.samples_per_frame, rounding_mode="floor")
        if self.config.encoder.causal:
            size = sum(self.encoder.state_sizes)
            zeros = features.new_zeros(features.shape[0], 1 + size)
            pooled, block_mask, _ = self._encode(features, frames, zeros[:, :1], zeros[:, 1:])
            return self._output(pooled, block_mask)
        stride = self.config.encoder.stem_stride
        inside = torch.arange(features.shape[1] // stride, device=frames.device) < frames[:, None]
        mask = inside.to(features.dtype)[..., None]
        features = (features - self.feature_mean) * self.feature_scale
        pooled = self.encoder(features * mask.repeat_interleave(stride, dim=1), mask)
        return self._output(pooled[:, None], inside.any(dim=1, keepdim=True))

    def forward(self, samples: Tensor, lengths: Tensor) -> ClassifierOutput:
        """Whole utterances.

        Args:
            samples: [B, L] in [-1, 1], zero-padded at the end.
            lengths: int64 [B], samples of each utterance.

        Returns:
            Output after every block (causal) or once over the whole (not causal).
        """
        return self.forward_features(self.features(samples), lengths)
