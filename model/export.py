"""One ONNX file: raw samples and a state in, posteriors and the next state out.

Contract 1 (docs: README, "The model file"): inputs ``samples`` float32 [B, N], ``valid`` int64
[B], ``state`` float32 [B, D]; outputs ``gender``, ``age_group``, ``age_band`` float32
[B, classes] and ``state_out`` float32 [B, D]. ONNX forbids one name for an input and an output,
hence ``state_out``. What :mod:`model.quantize` makes of it has ``cache`` and ``cache_out`` besides,
uint8 [B, C]. Metadata: one JSON object under the key ``voicecohort``.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import warnings
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import ModelProto
from torch import Tensor, nn

from model.classifier import BLOCK, SpeakerClassifier
from model.frontend import SAMPLE_RATE
from model.labels import TASKS
from model.onnx_passes.graph import flatten

CONTRACT = 1
"""Version of the file's inputs, outputs and metadata; a server refuses any other."""
METADATA_KEY = "voicecohort"
INPUTS = ("samples", "valid", "state")
OUTPUTS = (*TASKS, "state_out")


class _OneBlock(nn.Module):
    """The student's step over exactly one block, with posteriors instead of logits."""

    def __init__(self, student: SpeakerClassifier) -> None:
        super().__init__()
        self.student = student

    def forward(self, samples: Tensor, valid: Tensor, state: Tensor) -> tuple[Tensor, ...]:
        pooled, _, after = self.student.encode(samples, valid, state)
        logits, _, _ = self.student.heads(pooled[:, 0])
        return (*(logits[task].softmax(dim=1) for task in TASKS), after)


def _graph(student: SpeakerClassifier) -> ModelProto:
    from onnxscript import ir, optimizer  # noqa: PLC0415 - a second, for who only reads METADATA_KEY

    samples = torch.zeros(2, BLOCK)
    valid = torch.full((2,), BLOCK)
    state = torch.zeros(2, student.state_size)
    batch = torch.export.Dim("batch", min=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            _OneBlock(student).eval(),
            (samples, valid, state),
            input_names=list(INPUTS),
            output_names=list(OUTPUTS),
            dynamic_shapes={name: {0: batch} for name in INPUTS},
            dynamo=True,
            optimize=True,
            verbose=False,
        )
        assert program is not None
        # Folds batch norms and transposed weights into plain initialisers.
        folded = optimizer.optimize(
            program.model, input_size_limit=1 << 20, output_size_limit=1 << 20
        )
    return flatten(ir.to_proto(folded))


def _without_traces(graph: ModelProto) -> None:
    """Drop the exporter's stack traces: they hold source paths and triple the file."""
    for node in graph.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*graph.graph.value_info, *graph.graph.input, *graph.graph.output):
        del value.metadata_props[:]
    del graph.graph.value_info[:]
    del graph.graph.metadata_props[:]
    del graph.metadata_props[:]


def export(
    student: SpeakerClassifier,
    path: Path,
    *,
    calibration: dict[str, Any],
    provenance: dict[str, Any],
) -> str:
    """Write ``student`` as one ONNX file and return its model id.

    Args:
        student: causal, in evaluation mode.
        path: of the file.
        calibration: keys ``calibration`` and ``decision``, see ``train.evaluation.calibration``.
        provenance: what made it: command, settings, commit, data and licences, dev figures.

    Raises:
        ValueError: the encoder is not causal, or its attention scores could overflow exp.
    """
    if not student.config.encoder.causal:
        raise ValueError("only a causal student can be exported: the encoder has causal=False")
    bound = student.encoder.pooling.score_bound
    if not math.isfinite(bound) or bound > 60.0:  # exp(60) squared still fits a float32
        raise ValueError(f"attention scores reach {bound:.1f}; above 60 their sums overflow")
    graph = _graph(student.eval())
    _without_traces(graph)
    digest = hashlib.sha256(graph.SerializeToString(deterministic=True)).hexdigest()[:12]
    model_id = f"{student.config.name}-{digest}"
    metadata = {
        "contract": CONTRACT,
        "model_id": model_id,
        "sample_rate": SAMPLE_RATE,
        "block": BLOCK,
        "state_size": student.state_size,
        "labels": student.config.tree.to_dict(),
        **calibration,
        "student": student.config.to_dict(),
        "provenance": provenance,
    }
    graph.metadata_props.add(key=METADATA_KEY, value=json.dumps(metadata, sort_keys=True))
    onnx.checker.check_model(graph)
    path.write_bytes(graph.SerializeToString(deterministic=True))
    return model_id
