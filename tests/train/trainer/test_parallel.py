"""Data parallel training: two processes on the CPU, as torchrun starts them on eight GPUs."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch

SCRIPT = """
import json, os, sys
from pathlib import Path
import torch
from train.distill import Distill, distill
from train.trainer.trainer import Trainer

folder, *words = sys.argv[1:]
step, steps = Trainer.step, []

def recorded(self, batch):
    if self.settings.out.name == "stopped" and (self.at.epoch, self.at.step) == (1, 1):
        raise InterruptedError
    found = step(self, batch)
    weights = sum(p.detach().double().sum().item() for p in self.lesson.parameters())
    at = {"epoch": self.at.epoch, "step": self.at.step, "seed": torch.initial_seed()}
    steps.append({**at, "ids": batch.ids, "loss": sum(found.values()), "weights": weights})
    return found

Trainer.step = recorded
distill(Distill(_cli_parse_args=[*words, "--out", folder + "/whole"]))
Path(folder, f"steps.{os.environ['RANK']}.json").write_text(json.dumps(steps))
stopped = [*words, "--out", folder + "/stopped"]
try:
    distill(Distill(_cli_parse_args=stopped))
except InterruptedError:
    Trainer.step = step
assert Trainer.step is step
distill(Distill(_cli_parse_args=stopped))
"""


def torchrun(*words):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(word) for word in (*command, *words)],
        capture_output=True, text=True, timeout=150, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def runs(sharded, teacher_run, tiny, tmp_path_factory):
    """Folder of an uninterrupted run, and of one that was stopped in mid-epoch and went on."""
    folder = tmp_path_factory.mktemp("parallel")
    shutil.copytree(teacher_run, folder / "teacher", ignore=shutil.ignore_patterns("*.npz"))
    flags = ("--preset", "mkd+ch", "--teacher", folder / "teacher", "--channel", "clean")
    flags = (*flags, "--no-streaming", "--epochs", 2, "--batch-size", 4, "--save-minutes", 0)
    words = tiny(sharded, folder / "stopped", *flags)
    (folder / "script.py").write_text(SCRIPT)
    torchrun(folder / "script.py", folder, *words)
    return folder


def steps_of(runs, rank):
    return json.loads((runs / f"steps.{rank}.json").read_text())


def test_processes_take_the_same_steps_and_hear_different_utterances(runs):
    first, second = steps_of(runs, 0), steps_of(runs, 1)
    places = [(step["epoch"], step["step"]) for step in first]
    assert places == [(epoch, step) for epoch in range(2) for step in range(3)]  # 20 / (2 x 4)
    assert places == [(step["epoch"], step["step"]) for step in second]
    for epoch in range(2):
        heard = [
            {name for step in steps if step["epoch"] == epoch for name in step["ids"]}
            for steps in (first, second)
        ]
        assert not heard[0] & heard[1]
        assert all(heard)


def test_one_process_writes(runs):
    for name in ("whole", "stopped"):
        lines = [json.loads(line) for line in (runs / name / "log.jsonl").read_text().splitlines()]
        assert [line["epoch"] for line in lines] == [1, 2]
        assert {path.name for path in (runs / name).iterdir()} == {
            "last.pt", "log.jsonl", "dev.json", "tensorboard"
        }  # fmt: skip
    assert len(list((runs / "teacher").glob("embeddings-*"))) == 1


def test_it_goes_on_to_the_same_weights(runs):
    ours, reference = (
        torch.load(runs / name / "last.pt", weights_only=True) for name in ("stopped", "whole")
    )
    for part in ("averaged", "lesson"):
        assert ours[part].keys() == reference[part].keys()
        for name, value in reference[part].items():
            assert torch.equal(ours[part][name], value), name
    assert ours["best"]["epoch"] == reference["best"]["epoch"]


def test_processes_learn_from_each_other_at_every_step(runs):
    first, second = steps_of(runs, 0), steps_of(runs, 1)
    weights = [step["weights"] for step in first]
    assert weights == [step["weights"] for step in second]
    assert len(set(weights)) == 6
    assert all(a["loss"] != b["loss"] for a, b in zip(first, second, strict=True))


def test_no_two_steps_of_any_process_are_augmented_alike(runs):
    seeds = [step["seed"] for rank in range(2) for step in steps_of(runs, rank)]
    assert len(set(seeds)) == 12
