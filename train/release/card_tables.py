"""The tables of the model card, from a model file and its measurements."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from model.labels import TASKS
from train.evaluation.tables import NO_FIGURE, Table, cells, figure, plural, ranged

SCORES = {"f1": "macro F1", "recall": "macro recall (UAR)", "precision": "macro precision"}


@dataclass(frozen=True)
class Sources:
    """What a card is made from.

    Attributes:
        values: by source: model, accuracy, per_speaker, probe.
        digests: name of the file and begin of its SHA-256, by source.
        parameters: trained numbers of the model.
        size_bytes: of the model file.
    """

    values: dict[str, Any]
    digests: dict[str, tuple[str, str]]
    parameters: int
    size_bytes: int


def _name(task: str) -> str:
    return task.replace("_", " ")


def _macro(result: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "gender, adults": result["gender"]["adult"],
        "gender, children": result["gender"]["child"],
        "age group": result["age_group"],
        "age band": result["age_band"],
    }


def _headline(sources: Sources) -> Table:
    columns = []
    for result in (sources.values["accuracy"], sources.values["per_speaker"]):
        column = {key: f"{result[key]:,}" for key in ("calls", "speakers")}
        for name, at in _macro(result).items():
            column |= {f"{name}: {what}": cells(at, [key])[0] for key, what in SCORES.items()}
        for task in TASKS[:2]:
            at = result["decided"][task]
            column[f"{_name(task)}: decided"] = cells(at, ["coverage"])[0]
            column[f"{_name(task)}: right of decided"] = cells(at, ["accuracy"])[0]
        columns.append(column)
    rows = [(name, *(column[name] for column in columns)) for name in columns[0]]
    return Table("", ("", "single utterances", "whole calls, one per speaker"), rows)


def _facts(sources: Sources) -> Table:
    meta = sources.values["model"]
    encoder = dict(meta["student"]["encoder"])
    family = {"ecapa": "ECAPA-TDNN", "resnet": "ResNet"}[encoder.pop("family", "ecapa")]
    causal = "causal " if encoder.pop("causal", False) else ""
    sizes = ", ".join(f"{_name(key)} {_plain(value)}" for key, value in encoder.items())
    widths = ", ".join(f"{_name(task)} ({len(meta['labels'][task])})" for task in TASKS)
    step = 1000 * meta["block"] / meta["sample_rate"]
    rows: list[tuple[str, ...]] = [
        ("model", f"`{meta['model_id']}`"),
        ("architecture", f"{causal}{family} encoder with three heads ({sizes})"),
        ("parameters", f"{sources.parameters:,}"),
        ("file", f"{sources.size_bytes / 1e6:.1f} MB, ONNX with metadata"),
        ("input", f"speech of one channel at {meta['sample_rate']:,} Hz, {step:g} ms per step"),
        ("output", f"posteriors after every step: {widths}"),
        (
            "state per call",
            f"{meta['state_size']:,} floats, {4 * meta['state_size'] / 1000:.0f} kB",
        ),
    ]
    return Table("", ("", ""), rows)


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _labels(sources: Sources) -> Table:
    labels = sources.values["model"]["labels"]
    lower = labels["lower_age"]
    rows: list[tuple[str, ...]] = []
    for number, group in enumerate(labels["age_group"]):
        of = [i for i, parent in enumerate(labels["parent"]) if parent == number]
        last = of[-1] + 1
        years = f"{lower[of[0]]} and older" if last == len(lower) else f"below {lower[last]}"
        if of[0] and last < len(lower):
            years = f"{lower[of[0]]} to {lower[last] - 1}"
        rows.append((group, ", ".join(labels["age_band"][i] for i in of), years))
    return Table("", ("age group", "age bands", "years"), rows)


def _classes(sources: Sources) -> Table:
    rows: list[tuple[str, ...]] = []
    for name, scores in _macro(sources.values["accuracy"]).items():
        for label, at in scores["per_class"].items() if name != "gender, children" else ():
            wrong = {k or "none": n for k, n in scores["confusion"][label].items() if k != label}
            likely = max(wrong, key=wrong.__getitem__, default="")
            taken = f"{likely} ({wrong[likely] / at['n']:.2f})" if likely else NO_FIGURE
            recall = ranged(at["recall"], at["interval"]["recall"])
            counts = (f"{at['n']:,}", str(at["speakers"]))
            rows.append((f"{name}: {label}", *counts, recall, figure(at["precision"]), taken))
    header = ("class", "calls", "speakers", "recall", "precision", "most often taken for (share)")
    return Table("", header, rows)


def _gender_gap(sources: Sources) -> Table:
    rows: list[tuple[str, ...]] = []
    found = sources.values["accuracy"]["fairness"]
    whole = sources.values["per_speaker"]["fairness"]["bands"]
    for band, at in found["bands"].items():
        recalls = [
            ranged(one["recall"], one["interval"]) + f", {plural(one['speakers'], 'speaker')}"
            for one in at["gender"].values()
        ]
        gaps = [ranged(r["gap_points"], r["interval"], 1) for r in (at, whole.get(band)) if r]
        rows.append((band, *recalls, *gaps))
    names = [f"recall of {name}" for name in found["genders"]]
    return Table("", ("age band", *names, "gap, points", "gap in whole calls"), rows)


def _cells(sources: Sources) -> Table:
    keys = [f"{task}_recall" for task in TASKS]
    rows = [
        (
            f"{at['gender']}, {at['age_band']}",
            str(at["calls"]),
            str(at["speakers"]),
            *cells(at, keys),
        )
        for at in sources.values["accuracy"]["per_cell"]
    ]
    header = ("speakers", "calls", "speakers", *(f"{_name(task)} recall" for task in TASKS))
    return Table("", ("labels", *header[1:]), rows)


def _speech(sources: Sources) -> Table:
    rows: list[tuple[str, ...]] = []
    for number, first in enumerate(sources.values["accuracy"]["by_speech"]["gender"]):
        recalls = [
            cells(sources.values[source]["by_speech"][task][number], ["recall_all"], 2)[0]
            for source in ("accuracy", "per_speaker")
            for task in TASKS
        ]
        rows.append((f"{first['speech_seconds']:g} s", *recalls))
    names = [f"{_name(task)}{end}" for end in ("", ", whole calls") for task in TASKS]
    return Table("", ("speech", *names), rows)


def _corpora(sources: Sources) -> Table:
    rows = [
        (
            corpus,
            f"{at['calls']:,}",
            str(at["speakers"]),
            *(cells(at[task], ["accuracy"], 2)[0] for task in TASKS),
        )
        for corpus, at in sources.values["accuracy"]["per_corpus"].items()
    ]
    return Table("", ("corpus", "calls", "speakers", *map(_name, TASKS)), rows)


def _decisions(sources: Sources) -> Table:
    rows: list[tuple[str, ...]] = []
    for task in TASKS:
        rule = sources.values["model"]["decision"][task]
        decided = sources.values["accuracy"]["decided"][task]
        calibration = sources.values["accuracy"]["calibration"][task]
        rows.append(
            (
                _name(task),
                f"{rule['min_speech_seconds']:g} s, {rule['min_confidence']:.3f}",
                *cells(decided, ["coverage", "accuracy", "accuracy_all"]),
                *cells(calibration, ["ece", "overconfidence"]),
            )
        )
    header = ("task", "needs speech, confidence", "decided", "right of decided", "right of all")
    return Table("", (*header, "ECE", "overconfidence"), rows)


def _probe(sources: Sources) -> Table:
    rows: list[tuple[str, ...]] = []
    for at in sources.values["probe"]["corpus_probe"]:
        found = at["reason"] or ranged(at["accuracy"], (at["low"], at["high"]))
        counts = (str(len(at["speakers"])), str(sum(at["speakers"].values())))
        rows.append((at["band"], *counts, *map(figure, (at["chance"], at["audio"])), found))
    header = ("age band", "corpora", "speakers", "chance", "mean spectrum", "embedding")
    return Table("", header, rows)


def _licences(sources: Sources) -> Table:
    corpora = sources.values["model"]["provenance"]["data"]
    return Table("", ("corpus of training", "licence"), sorted(corpora.items()))


def _training(sources: Sources) -> Table:
    made = sources.values["model"]["provenance"]
    shift = [
        f"{_name(task)} {name} {value:+g}"
        for task, by_class in made["shift"].items()
        for name, value in by_class.items()
        if value
    ]
    rows: list[tuple[str, ...]] = [
        ("command", f"`{made['command']}`"),
        ("seed", str(made["seed"])),
        ("commit", f"`{made['commit']}`"),
        ("best epoch", str(made["best_epoch"])),
        ("log posteriors shifted, chosen on dev", ", ".join(shift) or "none"),
        ("macro F1 on dev", ", ".join(f"{_name(k)} {v:.3f}" for k, v in made["dev_f1"].items())),
    ]
    return Table("", ("", ""), rows)


def _files(sources: Sources) -> Table:
    rows: list[tuple[str, ...]] = [
        (source, f"`{name}`", f"`{sha}`") for source, (name, sha) in sources.digests.items()
    ]
    return Table("", ("source", "file", "SHA-256 begins"), rows)


TABLES: dict[str, Callable[[Sources], Table]] = {
    "headline": _headline,
    "facts": _facts,
    "labels": _labels,
    "classes": _classes,
    "gender gap": _gender_gap,
    "cells": _cells,
    "speech": _speech,
    "corpora": _corpora,
    "decisions": _decisions,
    "probe": _probe,
    "licences": _licences,
    "training": _training,
    "files": _files,
}
TEXT_TABLES = ("facts", "labels", "licences", "training", "files")
