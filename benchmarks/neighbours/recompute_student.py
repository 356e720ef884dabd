"""Our own student, used as people use an offline network: its window anew every half second.

Variant ``steps`` takes the model file itself from a zero state over the window's whole blocks, one
after the other. Variant ``graph`` favours the peer: one float32 graph over all its blocks (2.88 s)
at once, the same layers with random weights, exported when the child starts, and no window until
it is full.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.classifier import BLOCK, Student, StudentConfig
from neighbours.child import WINDOW_SECONDS, Calls, Hear, serve, windows
from streamer.audio.codec import SAMPLE_RATE, Samples
from streamer.inference.model import DEFAULT_MODEL
from streamer.inference.model import Student as ModelFile

BLOCKS = int(WINDOW_SECONDS * SAMPLE_RATE) // BLOCK
"""Whole ones of a window."""


def _scaled(window: Samples, blocks: int) -> NDArray[np.float32]:
    return (window[-blocks * BLOCK :] * np.float32(1 / 32768))[None, :]


def steps(options: argparse.Namespace) -> tuple[str, Hear]:
    """The file that serves, block by block."""
    student = ModelFile(options.model, provider="cpu")
    valid = np.full(1, BLOCK)

    def hear(calls: Calls) -> int:
        predictions = 0
        for call in calls:
            for window in windows(call):
                blocks = len(window) // BLOCK
                samples = _scaled(window, blocks)
                memory = student.metadata.fresh(1)
                for start in range(0, blocks * BLOCK, BLOCK):
                    _, memory = student.step(samples[:, start : start + BLOCK], valid, memory)
                predictions += 1
        return predictions

    return student.metadata.model_id, hear


class _Window(nn.Module):
    """The student over one full window, from a zero state."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def forward(self, samples: Tensor) -> tuple[Tensor, ...]:
        valid = torch.full((1,), BLOCKS * BLOCK)
        state = torch.zeros(1, self.student.state_size)
        output, _ = self.student.step(samples, valid, state)
        return tuple(logits[:, -1].softmax(dim=1) for logits in output.logits.values())


def graph(options: argparse.Namespace) -> tuple[str, Hear]:
    """The same layers as one graph over the window."""
    torch.set_num_threads(1)
    stored = onnx.load(options.model or DEFAULT_MODEL).metadata_props
    metadata = json.loads(next(entry.value for entry in stored if entry.key == "voicecohort"))
    student = Student(StudentConfig.from_dict(metadata["student"])).eval()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        path = Path(folder) / "window.onnx"
        torch.onnx.export(
            _Window(student),
            (torch.zeros(1, BLOCKS * BLOCK),),
            path,
            input_names=["samples"],
            dynamo=True,
            verbose=False,
        )
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = settings.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(path, settings, ["CPUExecutionProvider"])

    def hear(calls: Calls) -> int:
        predictions = 0
        for call in calls:
            for window in windows(call, least_seconds=BLOCKS * BLOCK / SAMPLE_RATE):
                session.run(None, {"samples": _scaled(window, BLOCKS)})
                predictions += 1
        return predictions

    return f"onnxruntime {onnxruntime.__version__}", hear


def load(options: argparse.Namespace) -> tuple[str, Hear]:
    """Variant ``graph`` or ``steps``."""
    return graph(options) if options.variant == "graph" else steps(options)


if __name__ == "__main__":
    serve(load)
