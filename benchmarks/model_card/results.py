"""The card's tables of figures: every one from the files that were measured."""

from __future__ import annotations

from functools import reduce
from operator import getitem

from scoring.group_tables import corpus_cells, fairness, pair, per_cell
from scoring.tables import (
    NO_FIGURE,
    NO_INTERVAL,
    TASKS,
    Result,
    Table,
    calibration,
    decisions,
    figure,
    per_class,
    plural,
    ranged,
    task_name,
)

from model_card.inputs import Inputs

HEADLINES = (
    ("gender, adults", ("gender", "adult")),
    ("gender, children", ("gender", "child")),
    ("age group", ("age_group",)),
    ("age band", ("age_band",)),
)
"""Name of a score, and the keys that lead to it in a result."""
MACRO = (("f1", "macro F1"), ("recall", "macro recall (UAR)"), ("precision", "macro precision"))


def block(table: Table, *, title: bool = True) -> str:
    """A table with its title and note, or nothing if it has no row."""
    if not table.rows:
        return ""
    head = [f"**{table.title}**"] if title else []
    return "\n\n".join([*head, table.markdown(), *filter(None, [table.note])])


def folded(summary: str, text: str) -> str:
    """Text that a page shows when it is asked to."""
    return f"<details>\n<summary>{summary}</summary>\n\n{text}\n\n</details>"


def _scores(result: Result, keys: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """Headline figures by name."""
    column = {}
    for name, path in HEADLINES:
        at = reduce(getitem, path, result)
        for key, what in keys:
            column[f"{name}: {what}"] = ranged(at[key], at["interval"][key])
    return column


def in_short(inputs: Inputs) -> str:
    """The headline figures: single utterances beside whole calls."""
    shown = [inputs.single, *([inputs.calls] if inputs.calls else [])]
    columns = [_headlines(result) for result in shown]
    rows = [(name, *(column[name] for column in columns)) for name in columns[0]]
    header = ("", "single utterances", "whole calls, one per speaker")[: len(shown) + 1]
    missing = "" if inputs.calls else "\n\nWhole calls, one per speaker, were not measured."
    return Table("", header, rows).markdown() + missing + "\n\n" + _chance(inputs)


def _headlines(result: Result) -> dict[str, str]:
    column = {"calls": f"{result['calls']:,}", "speakers": f"{result['speakers']:,}"}
    column |= _scores(result, MACRO)
    for task in TASKS[:2]:
        at = result["decided"][task]
        for key, what in (("coverage", "decided"), ("accuracy", "right of decided")):
            column[f"{task_name(task)}: {what}"] = ranged(at[key], at["interval"][key])
    return {**column, "largest gap between genders, points": _gap(result)}


def _gap(result: Result) -> str:
    found = result["fairness"]
    if found is None or not found["largest"]:
        return NO_FIGURE
    largest = found["largest"]
    sign = 1 if largest["gap_points"] >= 0 else -1
    interval = largest["interval"]
    turned = None if interval is None else sorted(sign * end for end in interval)
    less = found["genders"][1 if sign > 0 else 0]
    return (
        f"{largest['age_band']}, {less} lower by {ranged(sign * largest['gap_points'], turned, 1)}"
    )


def _chance(inputs: Inputs) -> str:
    labels = inputs.model.metadata["labels"]
    chances = [f"{1 / len(labels[task]):.3f} for {task_name(task)}" for task in TASKS]
    return f"By chance, macro recall would be {', '.join(chances)}."


def measured_on(inputs: Inputs) -> str:
    """What the figures are of."""
    single = inputs.single
    band = "300-3400 Hz" if single["band"] == "telephone" else "full band"
    form = ", the 8-bit form of this file" if single["model"] == inputs.model.small else ""
    draws, level = single["bootstrap"]["draws"], single["bootstrap"]["level"]
    lines = (
        f"Measured on split `{single['split']}` of `{single['manifest']}`: utterances, each "
        f"streamed through the real server as an 8 kHz mu-law call ({band}).",
        f"By student `{single['model']}`{form}.",
        f"{plural(single['failed'], 'call')} failed and count nowhere; {single['no_speech']} had "
        "no speech and count as wrong.",
        f"In brackets: {level:.0%} intervals. {draws:,} times, as many speakers as there are were "
        "drawn, with all their calls.",
        NO_INTERVAL,
    )
    return "\n".join(f"- {line}" for line in lines)


def classes(inputs: Inputs) -> str:
    """Recall of every class."""
    return block(per_class(inputs.single), title=False)


def genders(inputs: Inputs) -> str:
    """Women against men, in single utterances and in whole calls."""
    single = fairness(inputs.single)
    if not single.rows:
        return "The model has other than two genders: there is no one gap to report."
    made = [Table("Single utterances", single.header, single.rows, single.note)]
    if inputs.calls:
        whole = fairness(inputs.calls)
        made.append(Table("Whole calls", whole.header, whole.rows, whole.note))
    return "\n\n".join(map(block, made))


def cells(inputs: Inputs) -> str:
    """By gender and age band."""
    return block(per_cell(inputs.single), title=False)


def by_speech(inputs: Inputs) -> str:
    """Macro recall and F1 by the speech heard, in single utterances and in whole calls."""
    made = [block(_speech("Single utterances", inputs.single))]
    if inputs.calls:
        made.append(block(_speech("Whole calls", inputs.calls)))
    return "\n\n".join(made)


def _speech(title: str, result: Result) -> Table:
    rows: list[tuple[str, ...]] = []
    for at in zip(*(result["by_speech"][task] for task in TASKS), strict=True):
        values = [
            ranged(one[f"{key}_all"], one["interval"][f"{key}_all"], 2)
            for one in at
            for key in ("recall", "f1")
        ]
        long = f"{at[0]['n']:,} / {at[0]['speakers']:,}"
        rows.append((f"{at[0]['speech_seconds']:g} s", long, *values))
    counts = [
        f"{task_name(task)} {result['by_speech'][task][0]['n_all']:,} of "
        f"{plural(result['by_speech'][task][0]['speakers_all'], 'speaker')}"
        for task in TASKS
    ]
    note = (
        f"Over all calls ({', '.join(counts)}); one with less speech counts with its final "
        "prediction. As long: calls, and their speakers, with at least so much speech."
    )
    header = ("speech heard", "as long", *_macro_header())
    return Table(title, header, rows, note)


def _macro_header() -> list[str]:
    return [f"{task_name(task)} {what}" for task in TASKS for what in ("UAR", "F1")]


def by_part(inputs: Inputs, key: str) -> str:
    """By corpus or by language: macro recall and F1 of all tasks."""
    table = inputs.single[key]
    if not table:
        return "Not measured: the manifest does not name them."
    kind = key.removeprefix("per_")
    note = (
        "Macro averages are over the classes that a row has: do not compare rows. Accuracy and "
        "every figure per task are in the JSON."
    )
    rows: list[tuple[str, ...]] = []
    for name, at in table.items():
        shown = name
        if "languages" in at:
            shown = f"{len(at['languages'])} others"
            note += f" Others: {', '.join(at['languages'])}."
        values = [
            ranged(at[task][one], at[task]["interval"][one], 2)
            for task in TASKS
            for one in ("recall", "f1")
        ]
        rows.append((shown, f"{at['calls']:,}", f"{at['speakers']:,}", *values))
    header = (kind, "calls", "speakers", *_macro_header())
    text = block(Table("", header, rows, note), title=False)
    if len(rows) <= 8:
        return text
    return folded(f"{plural(len(rows), 'row')}, most of them of few speakers", text)


def all_cells(inputs: Inputs) -> str:
    """By gender, age band, corpus and language."""
    table = corpus_cells(inputs.single)
    least = inputs.single["per_corpus_cell"]["least_speakers"]
    if not table.rows:
        return f"No such cell has {least} speakers."
    text = block(table, title=False)
    return folded(f"{plural(len(table.rows), 'cell')} of {least} speakers or more", text)


def abstaining(inputs: Inputs) -> str:
    """What the decision rules do."""
    rules: list[tuple[str, ...]] = [
        (task_name(task), f"{at['min_speech_seconds']:g} s", figure(at["min_confidence"]))
        for task in TASKS
        if (at := inputs.model.metadata["decision"].get(task))
    ]
    header = ("task", "decided from, of speech", "and from a confidence of")
    return "\n\n".join(
        (Table("", header, rules).markdown(), block(decisions(inputs.single), title=False))
    )


def confidences(inputs: Inputs) -> str:
    """Calibration."""
    return block(calibration(inputs.single), title=False)


def corpus_probe(inputs: Inputs) -> str:
    """How far the corpus can be told, and the age inside one corpus."""
    inside = block(pair(inputs.single))
    if inputs.probe is None:
        missing = "The corpus probe was not measured for this card (`--probe` was not given)."
        return "\n\n".join(filter(None, (missing, inside)))
    rows: list[tuple[str, ...]] = []
    above: dict[str, bool] = {}
    for at in inputs.probe["corpus_probe"]:
        found = at["reason"] or ranged(at["accuracy"], (at["low"], at["high"]))
        counts = (str(len(at["speakers"])), str(sum(at["speakers"].values())))
        values = [figure(at[key]) for key in ("chance", "shuffled", "audio")]
        rows.append((at["band"], *counts, *values, found))
        if not at["reason"]:
            above[at["band"]] = at["low"] > at["chance"]
    header = ("age band", "corpora", "speakers", "chance", "shuffled", "audio", "embedding")
    table = Table("Which corpus? told within one age band", header, rows, inputs.probe["reading"])
    return "\n\n".join(filter(None, (_verdict(above), block(table), _within(inputs.probe), inside)))


def _verdict(above: dict[str, bool]) -> str:
    """What follows from the bands in which the corpus is told better than chance."""
    if not above:
        return "The probe could not be measured in any age band."
    yes = [band for band, better in above.items() if better]
    if not yes:
        return (
            f"In none of {plural(len(above), 'age band')} does the embedding tell the corpus "
            "beyond chance. That is no proof that age does not rest on it."
        )
    return (
        f"**To some degree it can tell the corpus.** In {len(yes)} of "
        f"{plural(len(above), 'age band')} ({', '.join(yes)}) it does so beyond chance, interval "
        "included. So scores of age across corpora may rest on the corpus: trust those inside one."
    )


def _within(probe: Result) -> str:
    rows: list[tuple[str, ...]] = []
    for at in probe["within_corpus"]:
        speakers = " + ".join(map(str, at["speakers"].values()))
        values = [
            ranged(one["value"], (one["low"], one["high"])) if one else NO_FIGURE
            for one in (at["balanced_accuracy"], at["auc"])
        ]
        found = (at["reason"], NO_FIGURE) if at["reason"] else values
        rows.append((" or ".join(at["pair"]), at["corpus"], speakers, *found))
    header = ("bands", "corpus", "speakers", "balanced accuracy", "AUC")
    note = "By the probe, from the checkpoint; chance is 0.5."
    return block(Table("Age told inside one corpus", header, rows, note))


def clean(inputs: Inputs) -> str:
    """Headlines on the other manifest, beside the first."""
    if inputs.clean is None:
        return "Not measured for this card (`--clean` was not given)."
    shown = (inputs.single, inputs.clean)
    columns = [_scores(result, MACRO[:2]) for result in shown]
    rows = [(name, *(column[name] for column in columns)) for name in columns[0]]
    names = [
        f"`{result['manifest']}`: {plural(result['calls'], 'call')}, "
        f"{plural(result['speakers'], 'speaker')}"
        for result in shown
    ]
    return Table("", ("", *names), rows).markdown()
