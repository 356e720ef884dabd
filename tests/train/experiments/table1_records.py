"""Build command lines and records of Table 1 for its tests."""

from __future__ import annotations

import numpy as np

from model.labels import DEFAULT_TREE, TASKS
from train.experiments import table1
from train.experiments.table1_record import Record
from train.experiments.table1_rows import ROWS, flags_of


def options(*words):
    return table1.parser().parse_args([str(word) for word in words])


def flags(row, seed=1, *words):
    return flags_of(ROWS[row], seed, options(*words))


def record(row, seed=1, *, right=0.8, speakers=30, words=(), answers=None):
    """A record of ``speakers`` people with two utterances each, ``right`` of them recognised."""
    random = np.random.default_rng(answers or seed)
    count = 2 * speakers
    arrays = {
        "ids": np.array([f"u{n}" for n in range(count)]),
        "speakers": np.array([f"{n // 2:04d}" for n in range(count)]),
    }
    for task in TASKS:
        classes = len(DEFAULT_TREE.classes(task))
        truth = np.repeat(np.arange(speakers) % 2, 2) + (task == "age_band")  # nobody is a child
        predicted = np.where(random.random(count) < right, truth, (truth + 1) % classes)
        posterior = np.full((count, classes), 0.1 / classes) + random.random((count, classes)) / 99
        posterior[np.arange(count), predicted] += 0.9
        arrays[f"truth_{task}"] = truth
        arrays[f"logp_{task}"] = np.log(posterior / posterior.sum(axis=1, keepdims=True))
    meta = {
        "row": row,
        "seed": seed,
        "flags": list(flags(row, seed, *words)),
        "device": "d",
        "commit": "c",
        "classes": {task: list(DEFAULT_TREE.classes(task)) for task in TASKS},
        "shift": dict.fromkeys(DEFAULT_TREE.classes("age_group"), 0.0),
    }
    return Record(meta, arrays)
