"""Figures on shortcut learning to stand beside every age result: plain, shown and drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from model.classifier import SpeakerClassifier
from train.corpora.utterance import Utterance
from train.data.batching import Batch
from train.probing.corpus_probe import corpus_probe
from train.probing.embeddings import embed
from train.probing.within_corpus import CHILD_OR_20S, Pair, within_corpus

READING = (
    "Balanced accuracy of telling the corpus from the embedding within an age band, on unseen "
    "speakers, corpora and speakers counting the same. shuffled: corpora dealt out at random. "
    "audio: the same probe on the mean spectrum alone, which is there before any student. Where "
    "the embedding tells corpora apart, age scores across corpora may rest on the corpus: read "
    "the scores inside one corpus."
)

Report = dict[str, Any]


def shortcut_report(
    student: SpeakerClassifier,
    batches: Iterable[Batch],
    utterances: Mapping[str, Utterance],
    *,
    pairs: Sequence[Pair] = CHILD_OR_20S,
    seed: int = 1,
) -> Report:
    """Both figures for a student, plain and JSON-ready, with None and a reason where unmeasurable.

    Args:
        student: trained.
        batches: of dev or test.
        utterances: by cut id, at least those in the batches.
        pairs: age bands to tell apart inside one corpus.
        seed: of folds, shuffles and resampling.

    Returns:
        ``corpus_probe``: rows of :class:`~train.probing.corpus_probe.BandProbe`, youngest
        band first; ``within_corpus``: rows of
        :class:`~train.probing.within_corpus.PairResult`; ``reading``: what the figures mean;
        ``utterances``: how many had speech.

    Raises:
        ValueError: there is speech in none of the utterances.
    """
    embedded = embed(student, batches)
    people = [utterances[name] for name in embedded.ids]
    corpora = [u.corpus for u in people]
    speakers = [f"{u.corpus}/{u.speaker}" for u in people]
    classes = student.config.tree.age_band
    probe = corpus_probe(
        embedded.embeddings,
        corpora,
        [u.age_band for u in people],
        speakers,
        seed,
        spectra=embedded.spectra,
    )
    inside = within_corpus(
        embedded.posteriors, embedded.targets, corpora, speakers, classes, pairs=pairs, seed=seed
    )
    return {
        "utterances": len(people),
        "corpus_probe": sorted(probe.to_dict(), key=lambda row: classes.index(row["band"])),
        "within_corpus": [asdict(row) for row in inside],
        "reading": READING,
    }


def figure(value: float | None) -> str:
    """Three decimals, or a dash."""
    return "-" if value is None else f"{value:.3f}"


def _ranged(interval: Mapping[str, float] | None) -> str:
    if interval is None:
        return "-"
    return f"{interval['value']:.3f} ({interval['low']:.2f} to {interval['high']:.2f})"


def show(report: Report, console: Console) -> None:
    """Print :func:`shortcut_report` to a terminal."""
    bands = Table(title="Which corpus? within one age band", title_justify="left")
    for name in ("age band", "corpora", "chance", "shuffled", "audio", "embedding"):
        bands.add_column(name)
    for row in report["corpus_probe"]:
        accuracy = row["reason"] or _ranged({**row, "value": row["accuracy"]})
        chance, shuffled, audio = (figure(row[key]) for key in ("chance", "shuffled", "audio"))
        bands.add_row(row["band"], str(len(row["speakers"])), chance, shuffled, audio, accuracy)
    console.print(bands)
    inside = Table(title="Age inside one corpus", title_justify="left")
    for name in ("bands", "corpus", "speakers", "balanced accuracy", "AUC"):
        inside.add_column(name)
    for row in report["within_corpus"]:
        inside.add_row(
            " or ".join(row["pair"]),
            row["corpus"],
            " + ".join(map(str, row["speakers"].values())),
            row["reason"] or _ranged(row["balanced_accuracy"]),
            _ranged(row["auc"]),
        )
    console.print(inside)
    console.print(report["reading"], markup=False, highlight=False)


def picture(report: Report, path: Path) -> None:
    """Bars by age band: chance, shuffled, audio and embedding with its interval; a PNG."""
    rows = [row for row in report["corpus_probe"] if not row["reason"]]
    drawing = Figure(figsize=(1.5 + 1.3 * max(3, len(rows)), 4), layout="constrained")
    FigureCanvasAgg(drawing)
    axes = drawing.subplots()
    for offset, (key, colour) in enumerate(
        (("shuffled", "#999999"), ("audio", "#56b4e9"), ("accuracy", "#d55e00"))
    ):
        places = [i + 0.26 * (offset - 1) for i in range(len(rows))]
        name = "embedding" if key == "accuracy" else key
        axes.bar(places, [row[key] for row in rows], width=0.24, color=colour, label=name)
        if key == "accuracy":
            middle = [(row["low"] + row["high"]) / 2 for row in rows]
            reach = [(row["high"] - row["low"]) / 2 for row in rows]
            axes.errorbar(places, middle, reach, fmt="none", ecolor="black", capsize=3)
    for i, row in enumerate(rows):
        axes.hlines(row["chance"], i - 0.42, i + 0.42, colors="black", linestyles="--", lw=1)
    axes.set_xticks(
        range(len(rows)), [f"{row['band']}\n{len(row['speakers'])} corpora" for row in rows]
    )
    axes.set(ylim=(0, 1.02), ylabel="balanced accuracy of telling the corpus")
    axes.set_title("Which corpus? within one age band (dashed: chance)", fontsize=10)
    if rows:
        axes.legend(fontsize=8)
    drawing.savefig(path, dpi=110, format="png")
