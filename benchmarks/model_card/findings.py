"""Where a student fails and for whom, in sentences that follow from the figures.

Each function looks at one thing and says what the figures allow, no more: whether an interval
leaves out chance or zero decides between the wordings.
"""

from __future__ import annotations

from collections.abc import Sequence

from scoring.tables import NO_INTERVAL, TASKS, Result, Table, plural, ranged, task_name

from model_card.inputs import Inputs

HALF = 0.5
NOTABLE = 0.1
"""Difference of recall between single utterances and whole calls that is worth a sentence."""
SETTLED = 0.02
"""An accuracy this close to the final one has settled."""
CELL_SPEAKERS = 5
"""Speakers of a cell that may be called weak."""
ENOUGH_SPEAKERS = 20
"""Speakers of a corpus or language of which anything can be said."""
WEAKEST = 3
BOUNDS = {"female": "below", "male": "above"}
"""The side of implausible.py's bound on which a label contradicts the pitch."""


def findings(inputs: Inputs) -> list[str]:
    """All sentences, a finding each, gravest first."""
    single = inputs.single
    return [
        *age_classes(single),
        *children(single),
        *women_and_men(single),
        *cause_of_the_gap(single, inputs.voices),
        *whole_calls(single, inputs.calls),
        *speech_needed(single),
        *undecided(single),
        *confidence(single),
        *corpora(single),
        *languages(single),
    ]


def _counted(at: Result) -> str:
    return f"{plural(at['n'], 'call')} of {plural(at['speakers'], 'speaker')}"


def age_classes(result: Result) -> list[str]:
    """Age groups that are missed in half of their calls or more, or the weakest one."""
    group = result["age_group"]
    if not group["per_class"]:
        return ["No call of the test has a known age: nothing can be said of age."]
    said = []
    order = sorted(group["per_class"].items(), key=lambda item: float(item[1]["recall"]))
    for name, at in order:
        recall, interval = at["recall"], at["interval"]["recall"]
        if recall >= HALF:
            continue
        wrong = {k: n for k, n in group["confusion"][name].items() if k and k != name}
        taken = max(wrong, key=wrong.__getitem__, default="")
        # Without an interval all were missed; of a few people that says little.
        sure = interval[1] < HALF if interval else at["speakers"] >= CELL_SPEAKERS
        missed = "missed more often than found" if sure else "probably missed more often than found"
        sentence = f"**{name.capitalize()} voices** are {missed}: recall "
        sentence += f"{ranged(recall, interval)} over {_counted(at)}."
        if taken:
            sentence += f" Most often they are taken for {taken} ({wrong[taken] / at['n']:.0%})."
        said.append(sentence)
    if not said:
        name, at = order[0]
        recall = ranged(at["recall"], at["interval"]["recall"])
        said = [f"Every age group is found in half of its calls. The weakest is {name}: {recall}."]
    if group["absent"]:
        said.append(f"Not in the test, so not measured: {', '.join(group['absent'])}.")
    return said


def children(result: Result) -> list[str]:
    """Whether the gender of children is told better than by guessing."""
    scores = result["gender"]["child"]
    if not scores["n"]:
        return ["**Children**: none in the test, nothing is known of their gender being told."]
    if scores["interval"]["recall"] is None or len(scores["per_class"]) < 2:
        return ["**Children**: too few in the test to say whether their gender is told."]
    low, high = scores["interval"]["recall"]
    told = f"macro recall {ranged(scores['recall'], (low, high))} over {_counted(scores)}"
    if low > HALF:
        adult = ranged(result["gender"]["adult"]["recall"], None)
        return [f"**Children**: gender is told better than by guessing, {told}; adults {adult}."]
    if high < HALF:
        return [f"**Children**: gender is told worse than by guessing, {told}."]
    return [f"**Children**: gender cannot be told from guessing, {told}."]


def women_and_men(result: Result) -> list[str]:
    """The largest gap between genders, and every other that is sure."""
    found = result["fairness"]
    if found is None:
        return ["The model has other than two genders: there is no one gap to report."]
    if found["largest"] is None:
        least = found["least_speakers"]
        return [f"No adult band has {least} speakers and both genders: the gap is unknown."]
    widest = found["largest"]["age_band"]
    said = []
    for band in sorted(found["bands"], key=lambda name: name != widest):
        at = found["bands"][band]
        interval = at["interval"]
        sure = interval is not None and (interval[0] > 0 or interval[1] < 0)
        if band != widest and not sure:
            continue
        first, second = found["genders"]
        less, more = (second, first) if at["gap_points"] > 0 else (first, second)
        recalls = " against ".join(
            ranged(at["gender"][name]["recall"], at["gender"][name]["interval"])
            for name in (less, more)
        )
        points = f"{abs(at['gap_points']):.1f} points"
        said.append(
            f"**{less.capitalize()}, {band}**: gender is recognised less often than of {more} "
            f"voices, {recalls} ({plural(at['speakers'], 'speaker')}). "
            + (f"The largest gap, {points}" if band == widest else f"A gap of {points}")
            + _zero(at["gap_points"], interval, sure=sure)
        )
    return said


def cause_of_the_gap(result: Result, voices: Result | None) -> list[str]:
    """How much of the largest gap between genders is of labels that the pitch contradicts."""
    found = result["fairness"]
    if found is None or found["largest"] is None:
        return []
    band = found["largest"]["age_band"]
    if voices is None or any(name not in voices["per_cell"].get(band, {}) for name in BOUNDS):
        return [f"**Why {band}**: not looked for; `--voices` was not given or has no such band."]
    cells = voices["per_cell"][band]
    parts, recalls, pitches = [], [], []
    for name, side in BOUNDS.items():
        at = cells[name]
        heard = at["calls"] - at["implausible_calls"]
        if heard:
            recalls.append(1 - (at["errors"] - at["implausible_errors"]) / heard)
        parts.append(
            f"{at['implausible_errors']} of {plural(at['errors'], 'error')} on {name} voices "
            f"{'is' if at['implausible_errors'] == 1 else 'are'} of the "
            f"{plural(at['implausible_speakers'], 'speaker')} {side} {voices[f'{name}_hz']:.0f} Hz"
        )
        if at["median_hz"] is not None:
            known = [
                cell[name]["median_hz"] or 0.0
                for cell in voices["per_cell"].values()
                if name in cell
            ]
            pitches.append(f"{name} {at['median_hz']:.0f} Hz (in all bands up to {max(known):.0f})")
    said = f"**Why {band}**: {'; '.join(parts)}."
    if len(recalls) == len(BOUNDS):
        gap = 100 * (recalls[0] - recalls[1])
        said += f" Without those speakers the gap, female less male, is {gap:+.1f} points."
    if pitches:
        said += f" Median pitch of the band: {', '.join(pitches)}."
    return [said]


def _zero(gap: float, interval: Sequence[float] | None, *, sure: bool) -> str:
    """How sure a gap is, to end a sentence with; its direction is told before."""
    if interval is None:
        return ", without an interval."
    low, high = interval if gap > 0 else (-interval[1], -interval[0])
    shown = f"; its interval, {low:.1f} to {high:.1f},"
    return f"{shown} leaves out zero." if sure else f"{shown} includes zero: it may be chance."


def whole_calls(single: Result, calls: Result | None) -> list[str]:
    """Classes that single utterances and a speaker's whole call recall differently."""
    if calls is None:
        return ["Calls of several utterances were not measured (`--per-speaker` was not given)."]
    said = []
    for title, now, then in (
        ("gender, adults", single["gender"]["adult"], calls["gender"]["adult"]),
        ("age group", single["age_group"], calls["age_group"]),
    ):
        for name, at in now["per_class"].items():
            other = then["per_class"].get(name)
            if other is None or abs(other["recall"] - at["recall"]) < NOTABLE:
                continue
            verb = (
                "is found more often" if other["recall"] > at["recall"] else "is missed more often"
            )
            figures = [ranged(a["recall"], a["interval"]["recall"]) for a in (at, other)]
            sentence = f"**Longer calls**: {name} ({title}) {verb}, recall {figures[0]} in single "
            said.append(f"{sentence}utterances, {figures[1]} in whole calls.")
    if said:
        return said
    return [f"Whole calls recall no class differently by {NOTABLE} or more."]


def speech_needed(result: Result) -> list[str]:
    """After how much speech accuracy has settled."""
    said = []
    for task in TASKS[:2]:
        rows = [row for row in result["by_speech"][task] if row["accuracy_all"] is not None]
        if not rows:
            continue
        first, final = rows[0], rows[-1]["accuracy_all"]
        settled = next(r for r in rows if r["accuracy_all"] >= final - SETTLED)
        if settled is first:
            continue
        said.append(
            f"**Little speech**: {task_name(task)} is right in {first['accuracy_all']:.3f} of the "
            f"calls after {first['speech_seconds']:g} s, in {settled['accuracy_all']:.3f} after "
            f"{settled['speech_seconds']:g} s, in {final:.3f} at the end."
        )
    return said


def undecided(result: Result) -> list[str]:
    """Who gets no answer."""
    parts = []
    for task in TASKS:
        at = result["decided"][task]
        if at["n"]:
            right = "" if at["accuracy"] is None else f", {at['accuracy']:.3f} of the rest right"
            parts.append(f"{task_name(task)} {1 - at['coverage']:.0%}{right}")
    return [f"**Undecided to the end**: {'; '.join(parts)}."] if parts else []


def confidence(result: Result) -> list[str]:
    """Tasks whose confidence is wrong by more than the interval allows."""
    said = []
    for task in TASKS:
        at = result["calibration"][task]
        interval = at["interval"]["overconfidence"]
        if interval is None or interval[0] <= 0 <= interval[1]:
            continue
        much = "more" if at["overconfidence"] > 0 else "less"
        said.append(
            f"**{task_name(task).capitalize()} states {much} confidence than it earns**: "
            f"{at['confidence']:.3f} on average, {at['accuracy']:.3f} right."
        )
    if said:
        return said
    return ["No task is over- or underconfident by more than its interval allows for."]


def corpora(result: Result) -> list[str]:
    """Where gender and age group are told worst, and best."""
    said = []
    rows = {
        name: at for name, at in result["per_corpus"].items() if at["speakers"] >= ENOUGH_SPEAKERS
    }
    for task in TASKS[:2]:
        known = {k: at[task] for k, at in rows.items() if at[task]["accuracy"] is not None}
        if len(known) < 2:
            continue
        worst, best = (
            pick(known, key=lambda name: float(known[name]["accuracy"])) for pick in (min, max)
        )
        figures = [
            ranged(known[k]["accuracy"], known[k]["interval"]["accuracy"]) for k in (worst, best)
        ]
        said.append(
            f"**By corpus**, {task_name(task)} is told worst in {worst}, accuracy {figures[0]}, "
            f"best in {best}, {figures[1]}. Who speaks differs too, not only the recording."
        )
    return said


def languages(result: Result) -> list[str]:
    """For how many languages there are enough speakers to say anything."""
    rows = result["per_language"]
    if not rows:
        return ["Languages were not measured: the manifest does not name them."]
    alone = {name: at for name, at in rows.items() if name not in ("others", "not given")}
    enough = [name for name, at in alone.items() if at["speakers"] >= ENOUGH_SPEAKERS]
    few = len(alone) - len(enough) + len(rows.get("others", {}).get("languages", []))
    named = f" ({', '.join(enough)})" if enough else ""
    return [
        f"**Languages**: {len(enough)}{named} with {ENOUGH_SPEAKERS} speakers or more in the test. "
        f"Of {plural(few, 'other')} nothing can be said."
    ]


def weakest_cells(result: Result) -> Table:
    """The cells of gender and age band that are recalled worst."""
    rows: list[tuple[str, ...]] = []
    enough = [at for at in result["per_cell"] if at["speakers"] >= CELL_SPEAKERS]
    for key, what in (("gender_recall", "gender"), ("age_group_recall", "age group")):
        worst = sorted(enough, key=lambda at: float(at[key]))[:WEAKEST]
        rows += [
            (
                what,
                f"{at['gender']}, {at['age_band']}",
                str(at["calls"]),
                str(at["speakers"]),
                ranged(at[key], at["interval"][key]),
            )
            for at in worst
        ]
    note = f"Of cells with {CELL_SPEAKERS} speakers or more. {NO_INTERVAL}"
    return Table("Weakest", ("task", "speaker", "calls", "speakers", "recall"), rows, note)
