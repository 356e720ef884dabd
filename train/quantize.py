"""Make a student of 8 bits, half the cost of a step on a CPU: see :mod:`model.quantize`.

Run as ``python -m train.quantize --student runs/first/student.onnx --data runs/shards``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from pydantic import Field
from pydantic_settings import CliApp, SettingsConfigDict

from model.classifier import BLOCK
from model.export import METADATA_KEY
from model.labels import LabelTree
from model.onnx_passes.activation_ranges import observe
from model.quantize import quantised
from train.command import Command
from train.data.batching import TelephoneDataset
from train.data.channel_sampler import ChannelSampler, Preset
from train.data.dataset import open_split


class Quantize(Command):
    """Write a student whose large matrix products run in 8 bits.

    Calls of the split are streamed through the float32 student to see how large its activations
    get; the file that comes out is served like any other (CPU only). Measure what it costs in
    accuracy with benchmarks/accuracy.py --model before shipping it.
    """

    model_config = SettingsConfigDict(cli_prog_name="python -m train.quantize")

    student: Path
    """float32 ONNX file that a training run wrote"""
    data: Path
    """folder that train.prepare or train.shard wrote"""
    out: Path | None = None
    """file to write; student-int8.onnx beside the student if not given"""
    split: str = "train"
    """split to look at"""
    calls: int = Field(256, ge=1)
    """utterances to look at; the first of the split"""
    channel: Preset = "full"
    """simulated telephone: clean, simple or full (train/telephone)"""
    quantile: float = Field(0.9999, gt=0.9, le=1.0)
    """share of an activation's values that is kept unclipped"""
    seed: int = 1
    """of the channels"""

    def cli_cmd(self) -> None:
        """Entry point of the command line."""
        try:
            path = self.run()
        except (OSError, ValueError, DecodeError) as error:
            sys.exit(f"quantise: {error}")
        print(path)

    def run(self) -> Path:
        """Write the file and return its path.

        Raises:
            OSError, ValueError, DecodeError: student or data cannot be used.
        """
        model = onnx.load(self.student)
        raw = next((p.value for p in model.metadata_props if p.key == METADATA_KEY), None)
        if raw is None:
            raise ValueError(f"student {self.student}: no metadata {METADATA_KEY!r}")
        metadata = json.loads(raw)
        if "quantised" in metadata["provenance"]:
            raise ValueError(f"student {self.student}: is quantised already")
        tree = LabelTree.from_dict(metadata["labels"])
        ranges = observe(model, self._blocks(tree))
        out = self.out or self.student.with_name("student-int8.onnx")
        settings = ("split", "calls", "channel", "quantile", "seed")
        small = quantised(
            model,
            ranges,
            quantile=self.quantile,
            made_by={
                "command": "python -m train.quantize",
                "settings": {name: getattr(self, name) for name in settings},
            },
        )
        out.write_bytes(small.SerializeToString(deterministic=True))
        return out

    def _blocks(self, tree: LabelTree) -> Iterator[dict[str, NDArray[np.generic]]]:
        """Blocks of one call after the other; an empty batch ends a call."""
        split = open_split(self.data, self.split)
        calls = TelephoneDataset(tree, ChannelSampler(self.channel), self.seed)
        for _, example in calls.examples(islice(split.cuts(), self.calls)):
            samples = example.speech.astype(np.float32) / np.float32(32768)
            whole = len(samples) // BLOCK * BLOCK
            for block in samples[:whole].reshape(-1, 1, BLOCK):
                yield {"samples": block, "valid": np.full(1, BLOCK)}
            yield {"samples": np.zeros((0, BLOCK), np.float32), "valid": np.zeros(0, np.int64)}


if __name__ == "__main__":
    CliApp.run(Quantize)
