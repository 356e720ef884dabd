"""A trained run of Table 1, tested: whole utterances of dev and test, counted by speaker."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from intervals import Floats, measures
from latency import device_name

from model.classifier import Student
from model.encoders import to_dict
from model.labels import TASKS, LabelTree
from paper_table.data import identity, labelled
from paper_table.records import Figures, Record, compact
from paper_table.rows import Knowledge, Row
from train.checkpoint import load_student
from train.data.babble import Talkers
from train.data.batching import UNKNOWN, Batch, Calls, evaluation_batches
from train.data.channel_sampler import Lines
from train.data.clean import CleanSpeech
from train.data.dataset import Split, open_split
from train.evaluation.evaluate import run

CHILD = "child"
"""Band whose members are no adults, as in scoring/result.py."""
CHANNEL_SEED = 1
"""Of the telephone that wideband test speech goes through: the same for every row and seed."""


def spoil(student: Student, knowledge: Knowledge, seed: int) -> None:
    """Replace the dictionary K of a trained student, as train.distill spoils one before training.

    Raises:
        ValueError: it has none.
    """
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


def hearing(row: Row, tree: LabelTree, folders: Sequence[str]) -> Calls:
    """What the row's students hear of an utterance; simulated calls stay as they are."""
    if row.pretrains:
        return CleanSpeech(tree, None, CHANNEL_SEED)
    talkers = Talkers.of(open_split(list(folders), "train"))
    return Calls(tree, Lines("full", talkers), CHANNEL_SEED)


def speakers_of(split: Split) -> dict[str, str]:
    """corpus/speaker by id of the cut."""
    return {cut.id: cut.supervisions[0].speaker for cut in labelled(split)}


def heard(student: Student, batches: Sequence[Batch]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which utterances are at least a frame long: ``run`` passes over the others."""
    return np.concatenate([b.lengths.numpy() >= student.samples_per_frame for b in batches])


def answers(student: Student, batches: Sequence[Batch]) -> dict[str, np.ndarray[Any, Any]]:
    """Final prediction of every utterance by task, -1 where no speech was heard."""
    said = run(student, batches)
    there = heard(student, batches)  # the others keep their place
    found = {}
    for task in TASKS:
        final = [rows[-1].argmax() for rows in said.logp[task]]
        if len(final) != there.sum():
            raise ValueError(f"{there.sum()} utterances have speech, {len(final)} were answered")
        found[task] = np.full(len(there), -1)
        found[task][there] = final
    return found


def counted(student: Student, split: Split, calls: Calls) -> tuple[dict[str, Floats], list[str]]:
    """Confusion matrices by task and speaker, and the sorted speakers."""
    tree = calls.tree
    batches = evaluation_batches(split, calls)
    said = answers(student, batches)
    whose = speakers_of(split)
    names = sorted(set(whose.values()))
    place = {name: number for number, name in enumerate(names)}
    member = np.array([place[whose[name]] for batch in batches for name in batch.ids])
    truth = {task: torch.cat([b.targets[task] for b in batches]).numpy() for task in TASKS}
    child = tree.age_band.index(CHILD) if CHILD in tree.age_band else UNKNOWN
    band = truth["age_band"]
    adult = (band != UNKNOWN) & (band != child)
    tables = {}
    for name in ("gender", "gender_everyone", "age_group", "age_band"):
        task = name.removesuffix("_everyone")
        known = truth[task] != UNKNOWN
        if name == "gender":
            known &= adult
        classes = len(tree.classes(task))
        tables[name] = np.zeros((len(names), classes, classes + 1))
        cells = (member[known], truth[task][known], said[task][known])
        np.add.at(tables[name], cells, 1)  # -1 is the last column: no answer
    return tables, names


def figures(tables: dict[str, Floats]) -> Figures:
    """Macro scores by task."""
    made: Figures = {}
    for task, table in tables.items():
        whole = table.sum(axis=0)
        found = measures(whole)
        made[task] = {
            name: None if np.isnan(value) else round(float(value), 6)
            for name in ("precision", "recall", "f1", "accuracy")
            for value in [getattr(found, name)]
        }
        made[task]["n"] = int(whole.sum())
    return made


def history(folder: Path) -> list[dict[str, Any]]:
    """Epochs of a run, as its log has them; a torn line is passed over."""
    path = folder / "log.jsonl"
    entries = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return entries


def code_version() -> str:
    """Git describe of the checkout, or "unknown" outside one."""
    told = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    )
    return told.stdout.strip() or "unknown"


def score(row: Row, seed: int, flags: list[str], folder: Path, data: Sequence[str]) -> Record:
    """Test a finished run.

    Args:
        row: it belongs to.
        seed: of it.
        flags: for the record.
        folder: of the run, or of the row's source.
        data: where its test split lies.

    Raises:
        OSError, ValueError: no finished run, or no test split.
    """
    student = load_student(folder)
    tree = student.config.tree
    if row.spoil:
        spoil(student, row.spoil, seed)
    calls = hearing(row, tree, data)
    dev, _ = counted(student, open_split(list(data), "dev"), calls)
    test, names = counted(student, open_split(list(data), "test"), calls)
    epochs = history(folder)
    if not epochs:
        raise ValueError(f"{folder.name}: its log has no epoch")
    best = max(epochs, key=lambda entry: entry["score"])  # the first of equals, as the loop keeps
    return Record(
        row=row.id,
        seed=seed,
        flags=flags,
        code=code_version(),
        torch=torch.__version__,
        device=device_name(),
        seconds=0.0 if row.spoil else round(sum(entry["seconds"] for entry in epochs), 1),
        epochs=len(epochs),
        best_epoch=best["epoch"],
        dev_score=round(best["score"], 6),
        parameters=sum(part.numel() for part in student.parameters()),
        encoder=to_dict(student.config.encoder),
        classes={task: list(tree.classes(task)) for task in TASKS},
        dev=figures(dev),
        test=figures(test),
        speakers={
            "count": len(names),
            "digest": hashlib.sha256("\n".join(names).encode()).hexdigest()[:12],
            "data": identity(data),
        },
        confusions={task: compact(table) for task, table in test.items()},
    )
