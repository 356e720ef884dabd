"""Ask every system about the gender of every call, and compare the answers with the labels.

A call without an answer is wrong in accuracy and recall. Intervals are of 95 %, by bootstrap over
speakers; differences are between the same drawn speakers. Figures are finite or None.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from peers.environments import Child, Unavailable, one_line
from peers.rows import PeerRow, System
from rich.console import Console
from rich.progress import Progress
from scoring.calls import MAX_CALL_SECONDS, PAUSE_SECONDS, join, read_sound
from scoring.manifest import CallPlan, plan_calls, read_manifest

from streamer.audio.codec import SAMPLE_RATE, Encoding, Samples, decode, encode
from train.corpora.audio import read_audio, resample
from train.evaluation import intervals
from train.evaluation.intervals import Floats, Interval, measures, percentiles
from train.evaluation.tables import NO_FIGURE, Table, ranged

Row = dict[str, Any]

CONDITIONS = {"telephone": "8 kHz mu-law telephone", "wideband": "clean 16 kHz"}
GENDERS = ("female", "male")
THRESHOLDS_HERTZ = range(100, 251)
WIDE_RATE = 16_000


class Unusable(Exception):
    """A manifest with which nothing can be measured; the message is one line."""


@dataclass(frozen=True)
class Recording:
    """A call in both conditions: mu-law at 8 kHz, int16 at 16 kHz."""

    truth: str
    speaker: str
    telephone: bytes
    wideband: Samples

    def seconds(self, condition: str) -> float:
        """Length of the call."""
        if condition == "telephone":
            return len(self.telephone) / SAMPLE_RATE
        return len(self.wideband) / WIDE_RATE

    def form(self, condition: str, system: System) -> tuple[bytes, Encoding, int]:
        """Return the call as a system requires it: bytes, their encoding, Hz."""
        if condition == "telephone":
            if system.telephone_rate is None:
                return self.telephone, Encoding.MULAW, SAMPLE_RATE
            samples, own = decode(self.telephone, Encoding.MULAW), SAMPLE_RATE
            rate = system.telephone_rate
        else:
            samples, own, rate = self.wideband, WIDE_RATE, system.wideband_rate
        return encode(resample(samples, own, rate), Encoding.LINEAR16), Encoding.LINEAR16, rate


def read(plan: CallPlan) -> Recording:
    """Read the audio of a call; raises ValueError naming a file that cannot be read."""
    telephone = join(read_sound(path, "full") for path in plan.paths)
    pause = np.zeros(round(PAUSE_SECONDS * WIDE_RATE), np.int16)
    parts = [part for path in plan.paths for part in (pause, read_audio(str(path), WIDE_RATE))]
    most = round(MAX_CALL_SECONDS * WIDE_RATE)
    return Recording(plan.gender, plan.speaker_key, telephone, np.concatenate(parts[1:])[:most])


def recordings(split: str, options: argparse.Namespace, progress: Progress) -> list[Recording]:
    """Read the adult calls of a split; raises Unusable if there are none."""
    try:
        rows = read_manifest(options.manifest, split)
        adults = [u for u in rows if u.gender in GENDERS and u.age_band not in ("", "child")]
        plans = plan_calls(adults, per_speaker=options.per_speaker, limit=options.limit)
        found = [read(plan) for plan in progress.track(plans, description="reading audio")]
    except (OSError, csv.Error, ValueError) as error:
        raise Unusable(f"--manifest: {error}") from error
    if not found:
        raise Unusable(f"--manifest: split {split} has no adult of known gender and age")
    return found


def ask_gender(
    system: System,
    calls: Sequence[Recording],
    tuning: Sequence[Recording],
    options: argparse.Namespace,
    progress: Progress,
) -> Row:
    """Ask one system about every call.

    Returns:
        ``version``, ``load_cpu_s`` (until ready, first answer included: libraries delay work until
        then), ``replies`` and ``thresholds`` by condition; ``reason`` alone if it cannot run.
    """
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "call.raw"
        try:
            child = Child(system, options.environments, options.model, options.core)
            stack.callback(child.stop)

            def ask(call: Recording, condition: str) -> Row:
                data, encoding, rate = call.form(condition, system)
                scratch.write_bytes(data)
                return child.ask(scratch, encoding, rate)

            found: Row = {"version": child.version, "replies": {}, "thresholds": {}}
            found["load_cpu_s"] = child.ready["cpu_s"] + ask(calls[0], "telephone")["cpu_s"]
            for condition in CONDITIONS:
                tuned, replies = (
                    [ask(c, condition) for c in progress.track(part, description=system.name)]
                    for part in (tuning, calls)
                )
                if tuning:
                    found["thresholds"][condition] = best_threshold(
                        [call.truth for call in tuning], _read(tuned, "hertz")
                    )
                found["replies"][condition] = replies
        except Unavailable as error:
            return {"reason": str(error)}
    return found


def _read(replies: Sequence[Row], key: str) -> list[Any]:
    return [reply["answers"][0][key] if reply["answers"] else None for reply in replies]


def read_answers(
    row: PeerRow, replies: Sequence[Row], threshold: float | None
) -> tuple[list[str], float | None]:
    """Return the answers of a row, empty for none, and its threshold in Hz if it has one."""
    if row.read == "label":
        return [answer or "" for answer in _read(replies, "label")], None
    hertz = threshold if row.read == "tuned" else float(row.read)
    assert hertz is not None, "a tuned row has a threshold"
    return by_pitch(_read(replies, "hertz"), hertz), hertz


def by_pitch(hertz: Sequence[float | None], threshold: float) -> list[str]:
    """Answer female above the threshold, male up to it, nothing without a pitch."""
    return ["" if h is None else GENDERS[h <= threshold] for h in hertz]


def best_threshold(truth: Sequence[str], hertz: Sequence[float | None]) -> float:
    """Return the whole Hz with the best macro F1; the middle one of several."""
    alone = [""] * len(truth)  # one table for all: nothing is drawn here
    found = [
        float(measures(counts(truth, by_pitch(hertz, limit), alone).sum(axis=0)).f1)
        for limit in THRESHOLDS_HERTZ
    ]
    best = np.flatnonzero(np.array(found) >= max(found) - 1e-12)
    return float(THRESHOLDS_HERTZ[best[len(best) // 2]])


def counts(truth: Sequence[str], answers: Sequence[str], speakers: Sequence[str]) -> Floats:
    """Count confusions of the speakers, [speakers, 2, 3]; the last column is no answer."""
    true, answered = (
        np.array([GENDERS.index(x) if x in GENDERS else -1 for x in labels], np.int64)
        for labels in (truth, answers)
    )
    return intervals.confusions(true, answered, speakers, len(GENDERS))


def _figure(value: Any, interval: Interval) -> Row:  # noqa: ANN401 - a float or an array of one
    number = float(value)
    return {
        "value": round(number, 5) if np.isfinite(number) else None,
        "interval": [round(end, 5) for end in interval] if interval else None,
    }


def score(truth: Sequence[str], answers: Sequence[str], speakers: Sequence[str]) -> Row:
    """Score one system in one condition; the JSON keys are described in ``__main__.py``."""
    each = counts(truth, answers, speakers)
    both = np.concatenate(
        [each.sum(axis=0)[None], intervals.resampled(each)]
    )  # the sample, then the draws
    found = measures(both)
    given = both[..., : len(GENDERS)].sum(axis=(-2, -1))
    figures = {
        "accuracy": found.accuracy,
        "f1": found.f1,
        "accuracy_of_answered": intervals.ratio(np.trace(both, axis1=-2, axis2=-1), given),
        **{f"{name}_recall": found.class_recall[:, n] for n, name in enumerate(GENDERS)},
    }
    unanswered = int(len(truth) - given[0])
    shown = {key: _figure(at[0], percentiles(at[1:])) for key, at in figures.items()}
    return {"n": len(truth), "unanswered": unanswered, **shown}


def difference(
    truth: Sequence[str], ours: Sequence[str], theirs: Sequence[str], speakers: Sequence[str]
) -> Row:
    """Compute ours less theirs: ``accuracy`` and ``f1``, each {value, interval}."""
    both = np.stack([counts(truth, answers, speakers) for answers in (ours, theirs)], axis=1)
    found = measures(np.concatenate([both.sum(axis=0)[None], intervals.resampled(both)]))
    lead = {"accuracy": found.accuracy, "f1": found.f1}
    lead = {name: at[:, 0] - at[:, 1] for name, at in lead.items()}
    return {name: _figure(at[0], percentiles(at[1:])) for name, at in lead.items()}


def gender_rows(
    rows: Sequence[PeerRow], collected: dict[System, Row], calls: Sequence[Recording]
) -> list[Row]:
    """Make the rows of the table; ``collected`` has what :func:`ask_gender` returned."""
    truth, speakers = [c.truth for c in calls], [c.speaker for c in calls]
    ours: dict[str, list[str]] = {}
    made: list[Row] = []
    for row in rows:
        found = collected[row.system]
        replies = found.get("replies", {})
        every = [reply for each in replies.values() for reply in each]
        reason = found.get("reason", "")
        if every and all(reply["error"] for reply in every):
            reason = one_line(every[0]["error"])
        entry: Row = {name: getattr(row, name) for name in ("key", "title", "what")}
        entry |= {"peer": row.system.name, "version": found.get("version"), "reason": reason}
        entry |= {"load_cpu_s": None, "peak_mib": None, "conditions": {}}
        made.append(entry)
        if reason:
            continue
        entry["load_cpu_s"] = round(found["load_cpu_s"], 2)
        entry["peak_mib"] = round(max(reply["peak_mib"] for reply in every))
        for condition, each in replies.items():
            answers, hertz = read_answers(row, each, found["thresholds"].get(condition))
            if row.key == "ours":
                ours[condition] = answers
            failures = [reply["error"] for reply in each if reply["error"]]
            compared = condition in ours and row.key != "ours"
            ahead = difference(truth, ours[condition], answers, speakers) if compared else None
            spent = sum(reply["cpu_s"] for reply in each)
            entry["conditions"][condition] = {
                **score(truth, answers, speakers),
                "cpu_s_per_audio_s": round(spent / sum(c.seconds(condition) for c in calls), 6),
                "failed": len(failures),
                "first_failure": one_line(failures[0]) if failures else None,
                "threshold_hz": hertz,
                "ours_ahead": ahead,
            }
    return made


def findings(rows: Sequence[Row]) -> Row:
    """Compare ours with the best peer by macro F1, by condition."""
    found: Row = {"did_not_run": [row["key"] for row in rows if row["reason"]]}
    ran = {row["key"]: row["conditions"] for row in rows if not row["reason"]}
    for condition in CONDITIONS:
        f1 = {key: ran[key][condition]["f1"]["value"] for key in ran if "ours" not in key}
        own = ran["ours"][condition]["f1"]["value"] if "ours" in ran else None
        best = max(f1, key=f1.__getitem__, default=None)
        lead = ran[best][condition]["ours_ahead"] if best else None
        found[condition] = {
            "ours_f1": own,
            "best_peer": best,
            "best_peer_f1": f1[best] if best else None,
            "lead": lead["f1"] if lead else None,
            "ahead_of_all": own > f1[best] if own is not None and best else None,
        }
    return found


def measure(rows: Sequence[PeerRow], options: argparse.Namespace, console: Console) -> Row:
    """Measure the gender rows; raises Unusable for a manifest that cannot be used."""
    with Progress(console=console) as progress:
        calls = recordings(options.split, options, progress)
        tuned = {row.system for row in rows if row.read == "tuned"}
        tuning = recordings(options.tune_split, options, progress) if tuned else []
        collected = {
            system: ask_gender(system, calls, tuning if system in tuned else [], options, progress)
            for system in dict.fromkeys(row.system for row in rows)
        }
    made = gender_rows(rows, collected, calls)
    given = ("split", "tune_split", "per_speaker", "limit")
    return {
        "rows": made,
        "findings": findings(made),
        "manifest": options.manifest.name,
        **{name: getattr(options, name) for name in given},
        "calls": len(calls),
        "speakers": len({call.speaker for call in calls}),
        **{name: sum(call.truth == name for call in calls) for name in GENDERS},
        "seconds_of_audio": round(sum(call.seconds("wideband") for call in calls), 1),
    }


def tables(result: Row) -> list[Table]:
    """Make a table for each condition."""
    columns = {"accuracy": "accuracy", "f1": "macro F1", "accuracy_of_answered": "of answered"}
    columns |= {f"{name}_recall": f"{name} recall" for name in GENDERS}
    made = []
    for condition, title in CONDITIONS.items():
        rows = []
        for row in result["rows"]:
            if not row["reason"]:
                at = row["conditions"][condition]
                lead = (
                    ranged(**at["ours_ahead"]["f1"], signed=True) if at["ours_ahead"] else NO_FIGURE
                )
                figures = [ranged(**at[key]) for key in columns]
                spent = f"{at['cpu_s_per_audio_s']:.4f}"
                rows.append((row["title"], *figures, str(at["unanswered"]), lead, spent))
        header = ("", *columns.values(), "no answer", "macro F1, ours less theirs", "CPU-s per s")
        note = (
            f"{result['calls']} calls of {result['speakers']} adult speakers, telephone simulated. "
            "In brackets: 95 %, over speakers. Ours was trained, and the pitch threshold tuned, "
            "on other speakers of the same corpora; the other peers were not."
        )
        made.append(Table(title, header, rows, note))
    return made
