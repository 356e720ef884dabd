"""From trained weights to the model file: calibrate on dev, attach provenance, export."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from model.classifier import SpeakerClassifier
from model.export import export
from train.corpora.utterance import Utterance
from train.data.batching import Batch
from train.evaluation.calibration import calibrate
from train.evaluation.evaluate import run, summary
from train.evaluation.logit_adjustment import apply, choose, shiftable
from train.probing.report import Report, shortcut_report

FILE = "student.onnx"


def _commit() -> str:
    """Version of the code that trained, or "unknown" outside a checkout."""
    result = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    return result.stdout.strip() or "unknown"


def _brief(report: Report) -> dict[str, Any]:
    """Rows with figures only, without counts: what a reader of an age score needs."""
    probe = ("band", "corpora", "chance", "shuffled", "audio", "accuracy", "low", "high")
    inside = ("pair", "corpus", "speakers", "balanced_accuracy", "auc")
    return {
        "corpus_probe": [
            {key: len(row["speakers"]) if key == "corpora" else row[key] for key in probe}
            for row in report["corpus_probe"]
            if not row["reason"]
        ],
        "within_corpus": [
            {key: row[key] for key in inside}
            for row in report["within_corpus"]
            if not row["reason"]
        ],
        "reading": report["reading"],
    }


def release(
    student: SpeakerClassifier,
    dev: Sequence[Batch],
    *,
    recipe: dict[str, Any],
    data: dict[str, str],
    people: Mapping[str, Utterance],
    out: Path,
    shifted: bool = False,
) -> Path:
    """Calibrate ``student`` on dev and write ``out/student.onnx`` and ``out/dev.json``.

    The file carries how well its embedding reveals the corpus, so that every age score
    of it can be shown beside that.

    Args:
        student: trained, in evaluation mode.
        dev: batches of the dev split.
        recipe: ``command``, ``seed`` and what else makes the same student again; no paths.
        data: corpus name -> licence, of the train split.
        people: utterances of the dev split by cut id.
        out: folder of the run.
        shifted: shift each class's log posterior by what suits macro F1 on dev. The student's
            biases are changed.
    """
    running = run(student, dev)
    tree = student.config.tree
    chosen: dict[str, dict[str, Any]] = {}
    if shifted:
        chosen = choose(running, tree, shiftable(student))
        apply(student, chosen)
        running = run(student, dev)
    scores = {str(s): summary(running, tree, s) for s in (0.5, 1, 2, 3, 5, 10, 1e9)}
    shortcut = shortcut_report(student, dev, people, seed=recipe["seed"])
    (out / "dev.json").write_text(
        json.dumps({"scores": scores, "shift": chosen, "shortcut": shortcut}, indent=1)
    )
    final = scores[str(1e9)]
    path = out / FILE
    export(
        student,
        path,
        calibration=calibrate(running, tree),
        provenance={
            **recipe,
            "commit": _commit(),
            "shift": {task: found["shift"] for task, found in chosen.items()},
            "dev_f1": {task: round(s["f1"], 4) for task, s in final.items()},
            "data": data,
            "shortcut": _brief(shortcut),
        },
    )
    return path
