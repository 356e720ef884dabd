"""Find probable label errors in a prepared corpus and list them for training.

    python -m train.label_noise PREPARED doubts.tsv --report doubts.html

Gender is judged for adults only, age only as child against adult (20 and older) inside each
corpus that has both: a child's gender and a decade of life are not in the voice clearly enough to
accuse a label, and across corpora a classifier would learn the microphone instead of the age.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic_settings import CliApp, CliPositionalArg, SettingsConfigDict
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from model.labels import DEFAULT_TREE
from train.command import Command
from train.corpora.utterance import Utterance
from train.corpora.weights import Doubt, write_weights
from train.data.dataset import open_data, utterance_of
from train.label_quality.issues import LEAST_SPEAKERS, Filter, Judgement, Verdict, judge
from train.label_quality.report import show, write_report
from train.label_quality.voice import MEDIAN_PITCH, hertz
from train.label_quality.voice_cache import voices

Task = Literal["gender", "age_group"]
ALL = "all corpora"
CHILD, ADULT = "child", "adult"
GENDER_FROM_AGE = 16
"""Years; younger voices may not have broken."""
HIGH_MALE_HZ, LOW_FEMALE_HZ = 180.0, 145.0
"""A median pitch beyond these is clearly on the other side; the plain rule to compare with."""


@dataclass(frozen=True)
class Scope:
    """Verdicts of one task over the utterances that were judged together."""

    task: Task
    name: str
    judgement: Judgement


def gender_label(utterance: Utterance) -> str:
    """Gender, empty for children and for teenagers who may be under 16."""
    if utterance.age is not None:
        return utterance.gender if utterance.age >= GENDER_FROM_AGE else ""
    return "" if utterance.age_band in {CHILD, "teens"} else utterance.gender


def age_label(utterance: Utterance) -> str:
    """Child or adult; empty for teenagers, who are neither by voice, and for unknown age."""
    if utterance.age_band in {"", "teens"}:
        return ""
    return CHILD if DEFAULT_TREE.group_of(utterance.age_band) == CHILD else ADULT


def implausible(gender: str, pitch: float) -> bool:
    """Whether a median pitch in Hz is clearly on the other gender's side, for an adult."""
    return pitch > HIGH_MALE_HZ if gender == "male" else pitch < LOW_FEMALE_HZ


def find(
    utterances: Sequence[Utterance],
    features: NDArray[np.float32],
    tasks: Sequence[Task],
    *,
    folds: int = 5,
    seed: int = 1,
    method: Filter = "both",
) -> list[Scope]:
    """Judge ``tasks``: gender over all corpora at once, age inside each corpus.

    Args:
        utterances: [n]
        features: [n, F], of ``train/doubts/voice.py``.
        tasks: what to judge.
        folds: of the cross-validation by speaker.
        seed: of folds and classifiers.
        method: how cleanlab picks issues.
    """
    people = [_speaker(u) for u in utterances]
    settings: dict[str, Any] = {"folds": folds, "seed": seed, "method": method}
    scopes = []
    if "gender" in tasks:
        labels = [gender_label(u) for u in utterances]
        scopes.append(Scope("gender", ALL, judge(features, labels, people, **settings)))
    if "age_group" in tasks:
        for corpus in sorted({u.corpus for u in utterances}):
            labels = [age_label(u) if u.corpus == corpus else "" for u in utterances]
            scopes.append(Scope("age_group", corpus, judge(features, labels, people, **settings)))
    return scopes


def _speaker(utterance: Utterance) -> str:
    return f"{utterance.corpus}/{utterance.speaker}"


def doubts(
    utterances: Sequence[Utterance],
    scopes: Sequence[Scope],
    *,
    keep_weight: float,
    least_confidence: float,
) -> list[Doubt]:
    """Rows of the list: every clip of a flagged speaker that carries the doubted label."""
    label = {"gender": gender_label, "age_group": age_label}
    rows = []
    for scope in scopes:
        flagged = {
            (v.speaker, v.given): v for v in scope.judgement.verdicts if sure(v, least_confidence)
        }
        for utterance in utterances:
            speaker = _speaker(utterance)
            verdict = flagged.get((speaker, label[scope.task](utterance)))
            if verdict is not None:
                cut = f"{utterance.corpus}/{utterance.id}"
                verdict_fields = (verdict.given, verdict.suggested, verdict.confidence)
                rows.append(Doubt(cut, speaker, scope.task, *verdict_fields, keep_weight))
    return rows


def sure(verdict: Verdict, least_confidence: float) -> bool:
    """Whether a verdict is listed."""
    return verdict.flagged and verdict.confidence >= least_confidence


def pitch_of_speakers(
    utterances: Sequence[Utterance], features: NDArray[np.float32]
) -> dict[str, float]:
    """Median pitch in Hz over the clips of each speaker that has voice in any."""
    clips: dict[str, list[float]] = {}
    for utterance, octaves in zip(utterances, features[:, MEDIAN_PITCH], strict=True):
        if np.isfinite(octaves):
            clips.setdefault(_speaker(utterance), []).append(float(octaves))
    return {speaker: hertz(float(np.median(values))) for speaker, values in clips.items()}


def summarise(
    scopes: Sequence[Scope], pitch: dict[str, float], least_confidence: float
) -> list[dict[str, Any]]:
    """A row a task and corpus, in speakers; figures of the pitch rule are None for age.

    Keys: ``task``, ``corpus``, ``judged``, ``flagged``, ``clips`` (of flagged speakers),
    ``by_pitch`` (beyond the limits of :func:`implausible`), ``both``.
    """
    rows = []
    for scope in scopes:
        verdicts = scope.judgement.verdicts
        for corpus in sorted({v.speaker.partition("/")[0] for v in verdicts}):
            inside = [v for v in verdicts if v.speaker.startswith(f"{corpus}/")]
            listed = [v for v in inside if sure(v, least_confidence)]
            row = {
                "task": scope.task,
                "corpus": corpus,
                "judged": len(inside),
                "flagged": len(listed),
                "clips": sum(v.clips for v in listed),
                "by_pitch": None,
                "both": None,
            }
            if scope.task == "gender":
                row["by_pitch"] = sum(implausible(v.given, pitch[v.speaker]) for v in inside)
                row["both"] = sum(implausible(v.given, pitch[v.speaker]) for v in listed)
            rows.append(row)
    return rows


class LabelNoise(Command):
    """List utterances whose label contradicts the voice, with a weight for training.

    Classifiers on pitch, formants and spectral shape are cross-validated by speaker, cleanlab
    picks the speakers whose label they contradict, and every clip of these gets a row. No
    speaker is judged by a model trained on the same speaker. It lists doubts: listen to some.
    """

    model_config = SettingsConfigDict(cli_prog_name="python -m train.label_noise")

    prepared: CliPositionalArg[Path]
    """folder that train.prepare wrote"""
    out: CliPositionalArg[Path]
    """list to write: id, speaker, task, given, suggested, confidence, weight; tab-separated"""
    split: str = "train"
    """split to look through; lists for dev and test are for looking, not for better scores"""
    tasks: list[Task] = Field(default=["gender"], min_length=1)
    """gender, age_group (child against adult) or both, as gender,age_group; age is far less sure"""
    folds: int = Field(5, ge=2, le=LEAST_SPEAKERS)
    """of the cross-validation"""
    seed: int = 1
    """of folds and classifiers"""
    method: Filter = "both"
    """cleanlab's rule: confident_learning lists fewest, predicted_neq_given all that differ"""
    least_confidence: float = Field(0.7, ge=0, le=1)
    """probability of the suggested label from which a speaker is listed"""
    keep_weight: float = Field(0.0, ge=0, le=1)
    """weight in training of what is listed; 0 leaves it out"""
    report: Path | None = None
    """picture (.png) or page with picture, counts and speakers (.html)"""
    as_json: bool = Field(False, validation_alias="json")
    """print the counts as JSON instead of a table"""
    cache: Path = Path("runs/cache")
    """folder for voice features, reused between runs"""
    jobs: int = Field(1, ge=1)
    """threads for decoding and features"""

    def cli_cmd(self) -> None:
        """Entry point of the command line."""
        try:
            result = self.run()
        except (OSError, ValueError) as error:
            sys.exit(f"label_noise: {error}")
        if self.as_json:
            print(json.dumps(result, indent=1))
        else:
            show(result, Console())

    def run(self) -> dict[str, Any]:
        """Write the list and the report; returns the counts.

        Raises:
            OSError, ValueError: a folder, split, file or label cannot be used.
        """
        if self.report is not None and self.report.suffix not in {".png", ".html"}:
            raise ValueError(f"report: {self.report.name!r} ends neither in .png nor in .html")
        cuts = list(open_data(self.prepared, self.split))
        utterances = [utterance_of(cut) for cut in cuts]
        console = Console(stderr=True)
        columns = (TextColumn("listening"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
            task = bar.add_task("listening", total=len(cuts))
            features = voices(cuts, self.cache, jobs=self.jobs, done=lambda n: bar.advance(task, n))
        scopes = find(
            utterances,
            features,
            self.tasks,
            folds=self.folds,
            seed=self.seed,
            method=self.method,
        )
        rows = doubts(
            utterances,
            scopes,
            keep_weight=self.keep_weight,
            least_confidence=self.least_confidence,
        )
        write_weights(rows, self.out)
        pitch = pitch_of_speakers(utterances, features)
        result = {
            "split": self.split,
            "utterances": len(cuts),
            "without_voice": int(np.isnan(features).any(axis=1).sum()),
            "listed": len(rows),
            "weight": self.keep_weight,
            "least_confidence": self.least_confidence,
            "pitch_rule_hz": {"male_above": HIGH_MALE_HZ, "female_below": LOW_FEMALE_HZ},
            "corpora": summarise(scopes, pitch, self.least_confidence),
            "skipped": [
                {"task": scope.task, "among": scope.name, "label": label, "why": why}
                for scope in scopes
                for label, why in scope.judgement.skipped.items()
            ],
        }
        if self.report is not None:
            verdicts = [(scope.task, v) for scope in scopes for v in scope.judgement.verdicts]
            write_report(result, verdicts, pitch, self.report)
        return result


if __name__ == "__main__":
    CliApp.run(LabelNoise)
