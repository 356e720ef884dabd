"""Records of Table 1: the final posteriors of a trained run on the test split.

A record is one .npz, so that every figure of the table follows from it:

``meta``
    JSON of row, seed, flags (no paths: folders by role, other runs by name), commit, device,
    seconds, epochs, dev_score (which chose the epoch), parameters, classes by task, and shift (by
    age group, what suits dev, natural log)
``ids``, ``speakers`` [utterances]
    of the test split
``logp_<task>`` float32 [utterances, classes], ``truth_<task>`` int64 [utterances]
    final log posteriors, NaN without speech; class indices, -1 if unknown
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from model.classifier import SpeakerClassifier
from model.labels import TASKS
from train.checkpoint import load_student
from train.data.babble import BabblePool
from train.data.batching import TelephoneDataset, evaluation_batches
from train.data.channel_sampler import ChannelSampler
from train.data.clean import CleanSpeech
from train.data.dataset import open_split
from train.evaluation.evaluate import run as evaluate
from train.evaluation.logit_adjustment import choose
from train.evaluation.machine import code_version, device_name
from train.experiments.table1_rows import Knowledge, TableRow

CHANNEL_SEED = 1
"""Seed of the simulated telephone for test speech: the same for every row and seed."""


@dataclass(frozen=True)
class Record:
    """A tested run; see the module for ``meta`` and the arrays."""

    meta: dict[str, Any]
    arrays: Mapping[str, NDArray[Any]]

    @property
    def key(self) -> tuple[str, int]:
        """TableRow and seed."""
        return self.meta["row"], self.meta["seed"]

    def write(self, folder: Path) -> None:
        """Write the record in one step, so that a kill cannot tear it."""
        path = folder / f"{self.meta['row']}-s{self.meta['seed']}.npz"
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            meta = np.array(json.dumps(self.meta))
            np.savez_compressed(file, allow_pickle=False, meta=meta, **self.arrays)
        partial.replace(path)


def read(path: Path) -> Record:
    """Read a record; raises ValueError for another kind of file."""
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        return Record(json.loads(str(arrays.pop("meta"))), arrays)
    except (KeyError, OSError, ValueError) as error:
        raise ValueError(f"{path}: not a record of a run: {error}") from error


def read_all(folder: Path) -> dict[tuple[str, int], Record]:
    """Read all records of a folder, by row and seed."""
    records = [read(path) for path in sorted(folder.glob("*-s*.npz"))]
    return {record.key: record for record in records}


def spoil(student: SpeakerClassifier, knowledge: Knowledge, seed: int) -> None:
    """Replace the dictionary K of a trained student; raises ValueError if it has none."""
    prior = student.heads.prior
    if prior is None:
        raise ValueError("this student has no dictionary K")
    known = prior.dictionary.clone()
    if knowledge == "zeroed":
        prior.dictionary.zero_()
    elif knowledge == "shuffled":
        order = torch.randperm(len(known), generator=torch.Generator().manual_seed(seed))
        prior.dictionary.copy_(known[order])
    else:
        prior.dictionary.copy_(known.mean(dim=0, keepdim=True).expand_as(known))


def measure_run(
    row: TableRow, seed: int, flags: Sequence[str], folder: Path, data: Sequence[str]
) -> Record:
    """Test a finished run on whole utterances and return its record.

    ``folder`` has its checkpoint or its source's, ``data`` are those of its test split. Raises
    OSError or ValueError without a finished run or a test split.
    """
    student = load_student(folder)
    if row.spoil:
        spoil(student, row.spoil, seed)
    log = (folder / "log.jsonl").read_text().splitlines()
    epochs = [json.loads(line) for line in log if line.endswith("}")]  # the last may be torn
    if not epochs:
        raise ValueError(f"{folder.name}: its log has no epoch")
    tree = student.config.tree
    if row.pretrains:
        calls: TelephoneDataset = CleanSpeech(tree, None, CHANNEL_SEED)
    else:  # calls of train.simulate_calls stay as they are, clean speech goes through the telephone
        talkers = BabblePool.of(open_split(list(data), "train"))
        calls = TelephoneDataset(tree, ChannelSampler("full", talkers), CHANNEL_SEED)
    dev = evaluate(student, evaluation_batches(open_split(list(data), "dev"), calls))
    split = open_split(list(data), "test")
    batches = evaluation_batches(split, calls)
    running = evaluate(student, batches)
    speech = np.concatenate([b.lengths.numpy() >= student.samples_per_frame for b in batches])
    ids = [name for batch in batches for name in batch.ids]
    speakers = {cut.id: cut.supervisions[0].speaker for cut in split.cuts()}
    arrays: dict[str, NDArray[Any]] = {
        "ids": np.array(ids),
        "speakers": np.array([speakers[name] for name in ids]),
    }
    for task in TASKS:
        logp = np.full((len(ids), len(tree.classes(task))), np.nan, np.float32)
        logp[speech] = np.stack([rows[-1] for rows in running.logp[task]])
        arrays[f"logp_{task}"] = logp
        arrays[f"truth_{task}"] = torch.cat([b.targets[task] for b in batches]).numpy()
    meta = {
        "row": row.id,
        "seed": seed,
        "flags": list(flags),
        "commit": code_version(),
        "device": device_name(),
        "seconds": 0.0 if row.spoil else round(sum(e["seconds"] for e in epochs), 1),
        "epochs": len(epochs),
        "dev_score": round(max(e["score"] for e in epochs), 6),
        "parameters": sum(part.numel() for part in student.parameters()),
        "classes": {task: list(tree.classes(task)) for task in TASKS},
        "shift": choose(dev, tree, ["age_group"])["age_group"]["shift"],
    }
    return Record(meta, arrays)
