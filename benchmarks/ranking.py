"""Whether runs of Table 1 tell the age groups apart, whatever class prior they decide by.

    python benchmarks/ranking.py --data runs/calls runs/table1/ecapa-base-s3 runs/table1/ecapa-ch-s3

Macro F1 hangs on the prior: a student that has learnt to doubt rare classes never says them, though
its posterior for them may well rise where they speak. Two figures do without it. ``auc`` is, for
each class, how often a member's log odds of it are higher than another's (area under the ROC
curve, one class against the rest; 0.5 is chance). ``*_shifted`` are macro F1 and recall after each
class's log posterior was shifted by what suits dev, as for a student that is released
(train/evaluation/logit_adjustment.py): what the run is worth once its line is drawn well.

JSON: ``data`` (identity, see paper_table/data.py), ``split``, ``task``, ``classes``, ``speakers``,
``utterances``, and ``runs``: by folder's name ``shift`` (by class, natural log), and {value,
interval} each of ``f1``, ``recall``, ``f1_shifted``, ``recall_shifted``, ``auc`` (by class),
``auc_macro``, and ``f1_shifted_more`` and ``auc_macro_more`` than the first run's. Intervals are of
95 %, by resampling speakers, the same draws for every run.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from intervals import DRAWS, Floats, Ints, confusions, measures, percentiles, resampled
from paper_table.data import identity
from paper_table.rows import ROWS
from paper_table.score import heard, hearing, speakers_of
from rich.console import Console
from rich.table import Table
from sklearn.metrics import roc_auc_score

from model.classifier import Student
from train.checkpoint import load_student
from train.data.batching import UNKNOWN, evaluation_batches
from train.data.dataset import open_split
from train.evaluation.evaluate import run
from train.evaluation.logit_adjustment import choose

TASK = "age_group"
HEADS = {
    "f1": "F1",
    "recall": "recall",
    "f1_shifted": "F1 shifted",
    "recall_shifted": "recall shifted",
    "auc_macro": "AUC",
}


def areas(logp: Floats, truth: Ints, weight: Floats) -> Floats:
    """Area under the ROC curve of each class's log odds; NaN for a class without members."""
    found = np.full(logp.shape[1], np.nan)
    bounded = logp.clip(-80.0, -1e-12)  # certainty has infinite odds
    odds = bounded - np.log(-np.expm1(bounded))
    for number in range(logp.shape[1]):
        member = truth == number
        if weight[member].sum() and weight[~member].sum():
            found[number] = roc_auc_score(member, odds[:, number], sample_weight=weight)
    return found


def figure(value: float, drawn: Floats) -> dict[str, Any]:
    """A value and its interval; both None where there was nothing to measure."""
    if np.isnan(value):
        return {"value": None, "interval": None}
    interval = percentiles(drawn)
    ends = None if interval is None else [round(end, 4) for end in interval]
    return {"value": round(float(value), 4), "interval": ends}


@dataclass(frozen=True)
class Ranks:
    """How well each class is ranked: [classes] as measured, [draws, classes] resampled."""

    measured: Floats
    drawn: Floats

    def macro(self) -> tuple[float, Floats]:
        """Averages over the classes that were measured."""
        there = ~np.isnan(self.measured)
        return float(self.measured[there].mean()), self.drawn[:, there].mean(axis=1)


def ranks(logp: Floats, truth: Ints, speakers: Sequence[str], draws: int) -> Ranks:
    """Areas of one run, and of ``draws`` resamplings of its speakers, the same for every run."""
    names, member = np.unique(speakers, return_inverse=True)
    counts = resampled(np.eye(len(names)), draws=draws)
    drawn = np.array([areas(logp, truth, row[member]) for row in counts])
    return Ranks(areas(logp, truth, np.ones(len(truth))), drawn)


def judge(
    logp: Floats, truth: Ints, speakers: Sequence[str], shift: Floats, found: Ranks, draws: int
) -> tuple[dict[str, Any], Floats]:
    """Figures of one run, and the draws of its shifted F1.

    Args:
        logp: log posteriors [utterances, classes].
        truth: their classes.
        speakers: of the utterances.
        shift: of the classes' log posteriors.
        found: see :func:`ranks`.
        draws: of speakers, for the intervals.

    Returns:
        See the module; ``auc`` is a list in the order of the classes.
    """
    result: dict[str, Any] = {}
    for end, said in (("", logp), ("_shifted", logp + shift)):
        tables = confusions(truth, said.argmax(axis=1), speakers, logp.shape[1])
        whole = measures(tables.sum(axis=0))
        drawn = measures(resampled(tables, draws=draws))
        result[f"f1{end}"] = figure(float(whole.f1), drawn.f1)
        result[f"recall{end}"] = figure(float(whole.recall), drawn.recall)
    result["auc_macro"] = figure(*found.macro())
    pairs = zip(found.measured, found.drawn.T, strict=True)
    return {**result, "auc": [figure(value, area) for value, area in pairs]}, drawn.f1


def shift_of(student: Student, data: Sequence[str]) -> dict[str, float]:
    """By class of TASK, what suits dev."""
    tree = student.config.tree
    batches = evaluation_batches(
        open_split(list(data), "dev"), hearing(ROWS["ecapa-base"], tree, data)
    )
    shift: dict[str, float] = choose(run(student, batches), tree, [TASK])[TASK]["shift"]
    return shift


def posteriors(student: Student, data: Sequence[str], split: str) -> tuple[Floats, Ints, list[str]]:
    """Final log posteriors of TASK, classes and speakers of the labelled utterances with speech."""
    parts = open_split(list(data), split)
    calls = hearing(ROWS["ecapa-base"], student.config.tree, data)
    batches = evaluation_batches(parts, calls)
    found = run(student, batches)
    whose = speakers_of(parts)
    names = np.array([whose[name] for batch in batches for name in batch.ids])
    known = found.targets[TASK] != UNKNOWN
    logp, truth = found.at(TASK, 1e9)
    return logp.astype(float), truth, names[heard(student, batches)][known].tolist()


def shown(result: dict[str, Any]) -> Table:
    """One line a run; intervals are in the JSON."""
    table = Table(title=f"{result['task']}, {result['split']}")
    for head in ("run", *HEADS.values(), *result["classes"]):
        table.add_column(head, no_wrap=head == "run")
    for name, found in result["runs"].items():
        cells = [*(found[key] for key in HEADS), *found["auc"]]
        table.add_row(name, *("-" if c["value"] is None else f"{c['value']:.3f}" for c in cells))
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """Judge finished runs; raises SystemExit for folders that cannot be read."""
    text = __doc__ or ""
    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, help="folders of finished runs")
    parser.add_argument(
        "--data", action="append", required=True, help="calls that they trained on; may be repeated"
    )
    parser.add_argument("--split", choices=("dev", "test"), default="test")
    parser.add_argument("--draws", type=int, default=DRAWS, help=f"of speakers ({DRAWS})")
    parser.add_argument("--json", type=Path, help="write the result there too")
    options = parser.parse_args(arguments)
    console = Console(stderr=True)
    result: dict[str, Any] = {"split": options.split, "task": TASK, "runs": {}}
    first: dict[str, tuple[float, Floats]] | None = None
    heard_first: list[str] = []
    try:
        for folder in options.runs:
            with console.status(f"{folder.name}: {options.split}"):
                student = load_student(folder)
                logp, truth, speakers = posteriors(student, options.data, options.split)
                heard_first = heard_first or speakers
                if speakers != heard_first:  # its draws would be of others
                    parser.error(f"{folder.name}: hears other utterances than the first run")
                found = ranks(logp, truth, speakers, options.draws)
                shift = shift_of(student, options.data)
                moved = np.array(list(shift.values()))
                figures, f1 = judge(logp, truth, speakers, moved, found, options.draws)
            measured = {
                "auc_macro": found.macro(),
                "f1_shifted": (figures["f1_shifted"]["value"], f1),
            }
            first = first or measured
            for name, (value, drawn) in measured.items():
                base, base_drawn = first[name]
                figures[f"{name}_more"] = figure(value - base, drawn - base_drawn)
            result["runs"][folder.name] = {"shift": shift, **figures}
        result["data"] = identity(options.data)
        result |= {"classes": list(student.config.tree.classes(TASK)), "utterances": len(truth)}
        result["speakers"] = len(set(heard_first))
    except (OSError, ValueError) as error:
        parser.error(str(error))
    wide = None if sys.stdout.isatty() else 140  # a pipe has no width of its own, and cuts at 80
    Console(width=wide).print(shown(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
