"""Assemble all figures of an accuracy run as plain values for JSON.

JSON written by ``--json`` (figures are null if nothing could be measured, never NaN; tasks are
gender, age_group and age_band):

``model``, ``manifest`` (name only), ``split``, ``per_speaker``, ``band``, ``limit``
    what was measured
``device``, ``commit``
    processor of this machine, git describe of the checkout
``calls``, ``failed``, ``failures`` [{id, reason}]
    calls made; those without a final prediction, which count in no other figure; the first 20
``no_speech``
    finished calls in which the server found no speech: wrong in every accuracy, undecided
``speakers``, ``unmeasured`` [sentence]
    of finished calls; what the manifest lacks, and which figures that costs
``seconds_of_audio``, ``updates`` {due, received}
    of finished calls; running predictions that were due and that were received
``bootstrap`` {level, draws, seed, over}
    how every ``interval`` was made: {figure: [low, high]}, or the pair itself beside a single
    figure; speakers are resampled with all their calls. null if the draws do not vary: one
    speaker, or all right or all wrong, which does not mean that the figure is certain
``gender.all``, ``gender.adult``, ``gender.child``, ``age_group``, ``age_band``
    {n, speakers, precision, recall, f1, accuracy, interval, per_class, absent, confusion}: macro
    averages over the classes that occur (macro recall is also called UAR); ``absent`` names the
    others; ``confusion`` {truth: {prediction: calls}}, "" for none. Child is age band "child",
    adult any other known band
``ece.<task>``, ``reliability.<task>`` [{confidence, accuracy, n, speakers, interval}]
    expected calibration error (15 bins) and the bins of a diagram (10); calls with speech only
``calibration.<task>`` {n, speakers, ece, confidence, accuracy, overconfidence, interval}
    overconfidence: mean confidence less accuracy
``decided.<task>`` {n, speakers, decided, coverage, accuracy, accuracy_all, interval}
    share of the n calls that ended with a label instead of "undecided"; share of those right;
    share right of all n, taking the likeliest class
``by_speech.<task>`` [{speech_seconds, n, speakers, accuracy, recall, f1, the same with _all}]
    from the last prediction that rests on at most so much speech: over calls with at least that
    much, and over all calls, shorter ones counting with their final prediction
``per_corpus.<corpus>``, ``per_language.<language>``
    {calls, speakers, <task> {n, speakers, accuracy, recall, f1, interval}}; languages of fewer
    than 5 speakers are merged as "others" {languages, ...}; {} without a column language
``per_band.<band>``
    {calls, speakers, corpora, age_group_recall, age_band_recall, interval,
    gender.<name> {recall, n, speakers, interval}}
``per_cell`` [{gender, age_band, calls, speakers, three recalls, interval}]
    gender by age band: gender_recall, age_group_recall, age_band_recall
``per_corpus_cell`` {least_speakers, cells, left_out {cells, calls}}
    the same by corpus and language too, if a cell has enough speakers
``fairness`` {genders, least_speakers, bands, largest, left_out}, or null
    per adult band with 20 speakers: recall of either gender, ``gap_points`` (first less second)
``child_vs_20s`` {corpus, n, speakers, age_band, age_group, forced}, or null
    inside speechocean762, the only corpus with children: a model can learn the corpus instead of
    the age. ``forced`` takes the likelier of the two bands; scores as above
``shortcut`` {corpus_probe, within_corpus, reading}, or null
    from the model file, measured on dev when it was made: how well a linear probe predicts the
    corpus from the embedding within an age band; null for --target or a file without it
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from scoring import groups
from scoring.calls import TASKS, Outcome
from scoring.scores import (
    CHILD,
    Classes,
    by_speech,
    calibrated,
    decided,
    final_scores,
    speaker_count,
)

from train.evaluation.intervals import DRAWS, LEVEL, SEED
from train.evaluation.speaker_scores import Scores

FAILURES_SHOWN = 20
GROUPS = (
    *("per_corpus", "per_language", "per_band", "per_cell", "per_corpus_cell"),
    *("fairness", "child_vs_20s"),
)
FORMAT = (__doc__ or "").partition("age_band):\n\n")[2]
"""The keys of the JSON, for ``--help``."""


def unmeasured(outcomes: Sequence[Outcome], classes: Classes) -> list[str]:
    """List what the manifest lacks for these calls, and which figures that costs."""
    plans = [o.plan for o in outcomes]
    notes = []
    if any(plan.language is None for plan in plans):
        notes.append("The manifest has no column language: there are no figures by language.")
    for field, cost in (
        ("language", "they stand under “not given”"),
        ("corpus", "they stand under “not given”"),
        ("speaker", "each counts as a speaker of its own, so intervals are too narrow"),
        ("gender", "they count in no figure of gender"),
        ("age_band", "they count in no figure of age"),
    ):
        count = sum(getattr(plan, field) == "" for plan in plans)
        if count:
            name = field.replace("_", " ")
            notes.append(f"{count} of {len(plans)} calls have no {name}: {cost}.")
    if len(classes.names["gender"]) != 2:
        notes.append("The model has other than two genders: there is no gap between the two.")
    return notes


def assemble(outcomes: Sequence[Outcome], classes: Classes) -> Scores:
    """Compute all figures of the calls; the module's docstring describes the keys."""
    finished = [o for o in outcomes if o.final is not None]
    failures = [o for o in outcomes if o.final is None]
    known_age = [o for o in finished if o.plan.age_band]
    adult = [o for o in known_age if o.plan.age_band != CHILD]
    child = [o for o in known_age if o.plan.age_band == CHILD]
    confidences = {task: calibrated(finished, classes, task) for task in TASKS}
    bins = {task: confidences[task].pop("bins") for task in TASKS}
    result = {
        "calls": len(outcomes),
        "failed": len(failures),
        "failures": [{"id": o.plan.id, "reason": o.reason} for o in failures[:FAILURES_SHOWN]],
        "no_speech": sum(not o.final.speech_time for o in finished if o.final),
        "speakers": speaker_count(finished),
        "unmeasured": unmeasured(finished, classes),
        "seconds_of_audio": round(sum(o.seconds for o in finished), 3),
        "updates": {
            "due": sum(o.updates_due for o in finished),
            "received": sum(o.updates for o in finished),
        },
        "bootstrap": {"level": LEVEL, "draws": DRAWS, "seed": SEED, "over": "speakers"},
        "gender": {
            "all": final_scores(finished, classes, "gender"),
            "adult": final_scores(adult, classes, "gender"),
            "child": final_scores(child, classes, "gender"),
        },
        "age_group": final_scores(finished, classes, "age_group"),
        "age_band": final_scores(finished, classes, "age_band"),
        "ece": {task: confidences[task]["ece"] for task in TASKS},
        "calibration": confidences,
        "reliability": bins,
        "decided": {task: decided(finished, classes, task) for task in TASKS},
        "by_speech": {task: by_speech(finished, classes, task) for task in TASKS},
        **{name: getattr(groups, name)(finished, classes) for name in GROUPS},
    }
    plain: Scores = json.loads(json.dumps(result, allow_nan=False))  # pairs become lists
    return plain
