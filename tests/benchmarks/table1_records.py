"""Records of runs that never were: what the tests of the paper's table read."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
from rich.console import Console

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))  # its scripts import each other by plain name

import intervals  # noqa: E402
from paper_table import score  # noqa: E402
from paper_table.recipe import Recipe, flags_of  # noqa: E402
from paper_table.records import Record, compact  # noqa: E402
from paper_table.rows import ABLATIONS, PAPER_ROWS, PREPARATION, ROWS  # noqa: E402

ALL_FOLDERS = {
    role: [f"/data/{role}"]
    for role in ("clean", "telephone", "inhouse", "inhouse-clean", "rest", "rest-clean")
}
RECIPE = Recipe()
EVERY = [*PAPER_ROWS, *PREPARATION, *ABLATIONS]
QUIET = Console(file=io.StringIO())
CLASSES = {"gender": ["f", "m"], "age_group": ["a", "b"], "age_band": ["a", "b"]}


def counts(speakers, seed, *, right=0.8):
    """Confusion counts of ``speakers`` people with two utterances each, two classes."""
    random = np.random.default_rng(seed)
    truth = np.repeat(np.arange(speakers) % 2, 2)
    said = np.where(random.random(2 * speakers) < right, truth, 1 - truth)
    names = [f"{n // 2:04d}" for n in range(2 * speakers)]
    return intervals.confusions(truth, said, names, 2)


def record(row, seed=1, *, recipe=RECIPE, tables=None, **other):
    tables = counts(30, seed) if tables is None else tables
    tasks = ("gender", "gender_everyone", "age_group", "age_band")
    facts = {
        "row": row,
        "seed": seed,
        "flags": flags_of(ROWS[row], seed, recipe),
        "code": "abc",
        "torch": "2",
        "device": "d",
        "seconds": 100.0,
        "epochs": 10,
        "best_epoch": 7,
        "dev_score": 1.5,
        "parameters": 1000,
        "encoder": {"family": "ecapa"},
        "classes": CLASSES,
        "dev": {},
        "test": score.figures(dict.fromkeys(tasks, tables)),
        "speakers": {"count": len(tables), "digest": "d1"},
        "confusions": {task: compact(tables) for task in tasks},
    }
    return Record(**(facts | other))


def by_key(*records):
    return {(r.row, r.seed): r for r in records}
