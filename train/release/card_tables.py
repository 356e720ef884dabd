"""The tables of the model card, from a model file and its measurements."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from model.labels import TASKS
from train.evaluation.accuracy_tables import by_cell, by_task, gender_gap, per_class
from train.evaluation.tables import Table, cells, figure, ranged

PEOPLE = {"adults": "adult", "children": "child"}
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


def _headline(sources: Sources) -> Table:
    columns = []
    for result in (sources.values["accuracy"], sources.values["per_speaker"]):
        parts = {f"gender, {name}": result["gender"][part] for name, part in PEOPLE.items()}
        parts |= {_name(task): result[task] for task in TASKS[1:]}
        column = {key: f"{result[key]:,}" for key in ("calls", "speakers")}
        for name, at in parts.items():
            column |= {f"{name}: {what}": cells(at, [key])[0] for key, what in SCORES.items()}
        for task in TASKS[:2]:
            decided, right = cells(result["decided"][task], ["coverage", "accuracy"])
            column[f"{_name(task)}: decided"] = decided
            column[f"{_name(task)}: right of decided"] = right
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
    state = meta["state_size"]
    rows: list[tuple[str, ...]] = [
        ("model", f"`{meta['model_id']}`"),
        ("architecture", f"{causal}{family} encoder with three heads ({sizes})"),
        ("parameters", f"{sources.parameters:,}"),
        ("file", f"{sources.size_bytes / 1e6:.1f} MB, ONNX with metadata"),
        ("input", f"speech of one channel at {meta['sample_rate']:,} Hz, {step:g} ms per step"),
        ("output", f"posteriors after every step: {widths}"),
        ("state per call", f"{state:,} floats, {4 * state / 1000:.0f} kB"),
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


def _speech(sources: Sources) -> Table:
    results = [sources.values[source]["by_speech"] for source in ("accuracy", "per_speaker")]
    rows = [
        (
            f"{first['speech_seconds']:g} s",
            *(cells(at[t][n], ["recall_all"], 2)[0] for at in results for t in TASKS),
        )
        for n, first in enumerate(results[0]["gender"])
    ]
    names = [f"{_name(task)}{end}" for end in ("", ", whole calls") for task in TASKS]
    return Table("", ("speech", *names), rows)


def _corpora(sources: Sources) -> Table:
    rows = []
    for corpus, at in sources.values["accuracy"]["per_corpus"].items():
        shares = (cells(at[task], ["accuracy"], 2)[0] for task in TASKS)
        rows.append((corpus, f"{at['calls']:,}", str(at["speakers"]), *shares))
    return Table("", ("corpus", "calls", "speakers", *map(_name, TASKS)), rows)


def _rules(sources: Sources) -> Table:
    rows = [
        (_name(task), f"{rule['min_speech_seconds']:g} s", figure(rule["min_confidence"]))
        for task, rule in sources.values["model"]["decision"].items()
    ]
    return Table("", ("task", "least speech", "least confidence"), rows)


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
    "classes": lambda sources: per_class(sources.values["accuracy"]),
    "gender gap": lambda sources: gender_gap(sources.values["accuracy"]),
    "gender gap, whole calls": lambda sources: gender_gap(sources.values["per_speaker"]),
    "cells": lambda sources: by_cell(sources.values["accuracy"]),
    "speech": _speech,
    "corpora": _corpora,
    "rules": _rules,
    "decisions": lambda sources: by_task(sources.values["accuracy"])[0],
    "calibration": lambda sources: by_task(sources.values["accuracy"])[1],
    "probe": _probe,
    "licences": _licences,
    "training": _training,
    "files": _files,
}
TEXT_TABLES = ("facts", "labels", "licences", "training", "files")
