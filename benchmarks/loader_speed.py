"""Does the training loader keep up? CPU cost of a second of speech, delivered and learnt from.

    python benchmarks/loader_speed.py --data runs/shards

The loader reads, decodes, degrades, gates and pads in this process; then the compact student, the
smallest there is, takes its training steps on those same batches, on one thread. What is compared
is process CPU time, so that other work on the machine disturbs little; the seconds are those of
the batches, after gating. Filling the loader's buffer is left out and reported apart.

JSON keys: ``presets`` (name to ``loader_ms_per_s``, ``clip_ms``, ``times_faster``),
``step_ms_per_s``, ``fill_ms``, ``batches``, ``device``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from latency import device_name
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader

from model.classifier import Student, StudentConfig
from model.labels import DEFAULT_TREE
from streamer.audio.codec import SAMPLE_RATE
from train.data.babble import Talkers
from train.data.batching import Batch, Calls, training_batches
from train.data.channel_sampler import Lines
from train.distill import Distill
from train.method.training_step import Lesson
from train.trainer.devices import launch
from train.trainer.setup import augmentation, open_corpus
from train.trainer.trainer import Loop, Material


def seconds(batches: Sequence[Batch]) -> float:
    """Speech in them."""
    return sum(int(batch.lengths.sum()) for batch in batches) / SAMPLE_RATE


def run_of(settings: Distill) -> Loop:
    """Plain supervised training of the compact student, ready for its first step."""
    torch.manual_seed(settings.seed)
    fabric = launch(settings)
    corpus = open_corpus(settings, fabric)
    lines = Lines(settings.channel, Talkers.of(corpus.train))
    crop = (settings.shortest_crop, settings.longest_crop)

    def batches(epoch: int, start: int) -> DataLoader[Batch]:
        calls = Calls(DEFAULT_TREE, lines, settings.seed, epoch=epoch, crop=crop)
        return training_batches(
            corpus.train, calls, corpus.sampling, steps=corpus.steps, start=start
        )

    lesson = Lesson(
        Student(StudentConfig(settings.encoder())),
        settings.objective(),
        augment=augmentation(settings, SAMPLE_RATE),
    )
    return Loop(settings, lesson, Material(batches, corpus.steps, dev=[]), fabric)


def deliver(loop: Loop, count: int) -> tuple[list[Batch], float, float]:
    """``count`` batches after the first, CPU seconds they took, and those of the first."""
    began = time.process_time()
    batches = iter(loop.material.batches(0, 0))
    next(batches)
    filled = time.process_time()
    taken = list(islice(batches, count))
    return taken, time.process_time() - filled, filled - began


def measure(data: list[str], presets: Sequence[str], count: int) -> dict[str, Any]:
    """See the module's docstring."""
    result: dict[str, Any] = {"presets": {}, "batches": count, "device": device_name()}
    for preset in presets:
        with tempfile.TemporaryDirectory() as out:
            wanted = {"data": data, "out": out, "channel": preset, "threads": 1, "preset": "base"}
            wanted |= {"epochs": 2, "epoch_clips": 64 * (count + 1), "accelerator": "cpu"}
            loop = run_of(Distill.model_validate(wanted))
            batches, loading, filling = deliver(loop, count)
        clips = sum(len(batch.ids) for batch in batches)
        began = time.process_time()
        loop.lesson.train()
        for batch in batches:
            loop.step(batch)
        learning = time.process_time() - began
        result["presets"][preset] = {
            "loader_ms_per_s": 1000 * loading / seconds(batches),
            "clip_ms": 1000 * loading / clips,
            "times_faster": learning / loading,
        }
        result["step_ms_per_s"] = 1000 * learning / seconds(batches)
        result["fill_ms"] = 1000 * filling
    return result


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", action="append", required=True, help="folder of shards")
    parser.add_argument("--presets", nargs="+", default=["simple", "full"], help="telephones")
    parser.add_argument("--batches", type=int, default=20, help="batches of 64 to measure")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the figures there")
    arguments = parser.parse_args(argv)
    result = measure(arguments.data, arguments.presets, arguments.batches)
    table = Table("telephone", "loader, CPU-ms per s", "CPU-ms per utterance", "student / loader")
    for name, figures in result["presets"].items():
        row = (figures["loader_ms_per_s"], figures["clip_ms"], figures["times_faster"])
        table.add_row(name, *(f"{figure:.2f}" for figure in row))
    console = Console()
    console.print(table)
    console.print(
        f"the compact student's training step takes {result['step_ms_per_s']:.2f} CPU-ms per "
        f"second of speech on one thread of {result['device']}; threads: {torch.get_num_threads()}"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
