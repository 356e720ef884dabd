"""Where a student fails and for whom, in sentences that follow from the figures.

Each function looks at one thing and says what the figures allow, no more: whether an interval
leaves out chance or zero decides between the wordings.
"""

from __future__ import annotations

from scoring.tables import NO_INTERVAL, TASKS, Result, Table, plural, ranged, task_name

from model_card.gaps import causes_of_gaps, women_and_men
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


def findings(inputs: Inputs) -> list[str]:
    """All sentences, a finding each, gravest first."""
    single = inputs.single
    return [
        *age_classes(single),
        *children(single),
        *women_and_men(single),
        *causes_of_gaps(single, inputs.voices),
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
