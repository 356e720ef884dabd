"""Whether runs of Table 1 tell the age groups apart, whatever class prior they decide by.

    python benchmarks/ranking.py --data runs/calls runs/table1/ecapa-base-s3 runs/table1/ecapa-ch-s3

Macro F1 hangs on the prior: a student that has learnt to doubt rare classes never says them, though
its posterior for them may well rise where they speak. Two figures do without it. ``auc`` is, for
each class, how often a member's log odds of it are higher than another's (area under the ROC
curve, one class against the rest; 0.5 is chance). ``*_prior_out`` are macro F1 and recall after
all of the training prior was taken out of the posteriors (logit adjustment, Menon et al. 2021,
arXiv 2007.07314, tau 1), so that the answer is as if all classes were equally frequent.

JSON: ``data`` (identity, see paper_table/data.py), ``split``, ``task``, ``classes``, ``speakers``,
``utterances``, and ``runs``: by folder's name ``f1``, ``recall``, ``f1_prior_out``,
``recall_prior_out``, ``auc`` (by class) and ``auc_macro`` {value, interval}. Intervals are of 95 %,
by resampling speakers with the same draws for every run.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from intervals import DRAWS, LEVEL, SEED, Floats, Ints
from paper_table.data import identity
from paper_table.rows import ROWS
from paper_table.score import hearing, speakers_of
from rich.console import Console
from rich.table import Table
from sklearn.metrics import roc_auc_score

from train.checkpoint import load_student
from train.judging.evaluate import run
from train.judging.prior import class_prior
from train.loading.batches import UNKNOWN, evaluation_batches
from train.loading.data import open_split

TASK = "age_group"
HEADS = {
    "f1": "F1",
    "recall": "recall",
    "f1_prior_out": "F1 without prior",
    "recall_prior_out": "recall without",
    "auc_macro": "AUC",
}
BALANCE = 0.5
"""Of the draws of training, as the rows of Table 1 leave it."""


def macro(truth: Ints, said: Ints, weight: Floats, classes: int) -> tuple[float, float]:
    """Macro F1 and recall over the classes that occur, each utterance counting ``weight`` times."""
    table = np.zeros((classes, classes))
    np.add.at(table, (truth, said), weight)
    right, true, given = table.diagonal(), table.sum(axis=1), table.sum(axis=0)
    occurs = true > 0
    f1 = 2 * right[occurs] / (true + given)[occurs]
    return float(f1.mean()), float((right[occurs] / true[occurs]).mean())


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


def judge(logp: Floats, truth: Ints, member: Ints, prior: Floats, draws: int) -> dict[str, Any]:
    """Figures of one run.

    Args:
        logp: log posteriors [utterances, classes].
        truth: their classes.
        member: number of each utterance's speaker.
        prior: of the classes in training, sums to 1.
        draws: of speakers, for the intervals.

    Returns:
        See the module; ``auc`` is a list in the order of the classes.
    """
    classes = logp.shape[1]
    said, said_out = logp.argmax(axis=1), (logp - np.log(prior)).argmax(axis=1)

    def all_of(weight: Floats) -> Floats:
        area = areas(logp, truth, weight)
        kept, out = (macro(truth, answer, weight, classes) for answer in (said, said_out))
        ranked = area[~np.isnan(area)]
        return np.array([*kept, *out, ranked.mean() if ranked.size else np.nan, *area])

    random = np.random.default_rng(SEED)
    people = int(member.max()) + 1
    drawn = [random.multinomial(people, np.full(people, 1 / people)) for _ in range(draws)]
    spread = np.array([all_of(counts[member].astype(float)) for counts in drawn])
    values: list[dict[str, Any]] = []
    for value, drawn_values in zip(all_of(np.ones(len(truth))), spread.T, strict=True):
        some = drawn_values[~np.isnan(drawn_values)]
        if np.isnan(value) or not some.size:  # no member, so nothing to rank
            values.append({"value": None, "interval": None})
            continue
        ends = np.quantile(some, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        values.append({"value": round(float(value), 4), "interval": ends.round(4).tolist()})
    return {**dict(zip(HEADS, values, strict=False)), "auc": values[len(HEADS) :]}


def posteriors(folder: Path, data: Sequence[str], split: str) -> tuple[Floats, Ints, list[str]]:
    """Final log posteriors of TASK, classes and speakers of the labelled utterances with speech."""
    student = load_student(folder)
    parts = open_split(list(data), split)
    calls = hearing(ROWS["ecapa-base"], student.config.tree, data)
    batches = evaluation_batches(parts, calls)
    found = run(student, batches)
    heard = [
        name
        for batch in batches
        for name, length in zip(batch.ids, batch.lengths.tolist(), strict=True)
        if length >= student.samples_per_frame
    ]
    whose = speakers_of(parts)
    known = found.targets[TASK] != UNKNOWN
    logp, truth = found.at(TASK, 1e9)
    return logp.astype(float), truth, [whose[n] for n, k in zip(heard, known, strict=True) if k]


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
    result: dict[str, Any] = {}
    try:
        for folder in options.runs:
            with console.status(f"{folder.name}: {options.split}"):
                logp, truth, speakers = posteriors(folder, options.data, options.split)
                tree = load_student(folder).config.tree
                prior = class_prior(open_split(options.data, "train"), BALANCE, tree)[TASK]
                names, member = np.unique(speakers, return_inverse=True)
                found = judge(logp, truth, member, prior, options.draws)
            result.setdefault("data", identity(options.data))
            result |= {"split": options.split, "task": TASK, "classes": list(tree.classes(TASK))}
            result |= {"speakers": len(names), "utterances": len(truth)}
            result.setdefault("runs", {})[folder.name] = found
    except (OSError, ValueError) as error:
        parser.error(str(error))
    Console().print(shown(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
