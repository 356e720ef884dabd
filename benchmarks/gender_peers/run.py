"""Asks every peer of peers.py about every call, and makes rows of the answers."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neighbours.answerers import LIKELIEST, OURS, SURE, TUNED, Answerer, Reading
from neighbours.answering import request
from neighbours.running import Child, Unavailable, interpreter, one_line

from gender_peers.calls import CONDITIONS, Condition, Recording, form
from gender_peers.scores import best_threshold, by_pitch, difference, score

Row = dict[str, Any]
Said = dict[str, Any]
Told = Callable[[], None]
"""Called after each answer, for a progress bar."""


@dataclass
class Heard:
    """What one process said.

    Attributes:
        version: of the peer.
        load_cpu_s: user and system time until it was ready, its first answer included: libraries
            put work off until then.
        said: answers by condition, in the order of the calls.
        thresholds: Hz by condition, of a peer that has one to be found.
        reason: why it did not run, empty if it did.
    """

    version: str | None = None
    load_cpu_s: float | None = None
    said: dict[Condition, list[Said]] = field(default_factory=dict)
    thresholds: dict[Condition, float] = field(default_factory=dict)
    reason: str = ""


def ask(
    child: Child, recording: Recording, condition: Condition, rate: int | None, to: Path
) -> Said:
    """One call's answer; the call lies in the file ``to`` while it is heard."""
    data, encoding, hertz = form(recording, condition, rate)
    to.write_bytes(data)
    return child.ask(request(to, encoding, hertz))


def hear(
    answerer: Answerer,
    recordings: Sequence[Recording],
    tuning: Sequence[Recording],
    *,
    environments: Path,
    scratch: Path,
    model: Path | None,
    core: int,
    told: Told,
) -> Heard:
    """Everything that one peer says; what keeps it from answering is its reason.

    Args:
        answerer: the peer.
        recordings: calls.
        tuning: calls of another split, for a threshold to be found on.
        environments: folder of the peers' virtual environments.
        scratch: folder for the call that is being heard.
        model: our student, None for what the server takes.
        core: that the peer is kept to.
        told: after each answer.
    """
    heard = Heard()
    path = scratch / "call.raw"
    rates: dict[Condition, int | None] = {
        "telephone": answerer.telephone,
        "wideband": answerer.wideband,
    }
    arguments = ["--model", str(model.resolve())] if model and answerer.key == OURS else []
    try:
        python = interpreter(answerer.environment, environments)
        child = Child(answerer.module, python, arguments, core)
    except Unavailable as error:
        heard.reason = str(error)
        return heard
    try:
        heard.version = child.version
        first = ask(child, recordings[0], "telephone", rates["telephone"], path)
        heard.load_cpu_s = child.ready["cpu_s"] + first["cpu_s"]
        for condition in CONDITIONS:
            rate = rates[condition]
            if answerer.tunes:
                pitch = []
                for recording in tuning:
                    pitch.append(ask(child, recording, condition, rate, path)["hertz"])
                    told()
                heard.thresholds[condition] = best_threshold([r.truth for r in tuning], pitch)
            heard.said[condition] = []
            for recording in recordings:
                heard.said[condition].append(ask(child, recording, condition, rate, path))
                told()
    except Unavailable as error:
        heard.reason = str(error)
    finally:
        child.stop()
    return heard


def answers(said: Sequence[Said], way: str | float, threshold: float | None) -> list[str]:
    """What a reading takes for the answers; empty ones are none."""
    if way == LIKELIEST:
        return [each["label"] for each in said]
    if way == SURE:
        return [each["sure"] or "" for each in said]
    hertz = threshold if way == TUNED else float(way)
    assert hertz is not None, "a tuned reading has been tuned"
    return by_pitch([each["hertz"] for each in said], hertz)


def rows(asked: Sequence[tuple[Answerer, Heard]], recordings: Sequence[Recording]) -> list[Row]:
    """A row a reading, as peers.py documents them; ours tells how far it is ahead of the others."""
    truth = [recording.truth for recording in recordings]
    persons = [recording.person for recording in recordings]
    ours: dict[Condition, list[str]] = {}
    made = []
    for answerer, heard in asked:
        for reading in answerer.readings:
            row: Row = {
                "key": reading.key,
                "title": reading.title,
                "peer": answerer.key,
                "what": reading.what,
                "version": heard.version,
                "reason": heard.reason or _never_answered(heard),
                "load_cpu_s": None,
                "peak_mib": None,
                "conditions": {},
            }
            made.append(row)
            if row["reason"]:
                continue
            row["load_cpu_s"] = round(heard.load_cpu_s or 0.0, 2)
            row["peak_mib"] = round(
                max(s["peak_mib"] for all_ in heard.said.values() for s in all_)
            )
            for condition, said in heard.said.items():
                threshold = heard.thresholds.get(condition) if reading.way == TUNED else None
                given = answers(said, reading.way, threshold)
                if reading.key == OURS:
                    ours[condition] = given
                entry = score(truth, given, persons)
                entry |= costs(said, [r.seconds(condition) for r in recordings])
                entry["threshold_hz"] = _threshold(reading, threshold)
                entry["ours_ahead"] = (
                    difference(truth, ours[condition], given, persons)
                    if condition in ours and answerer.key != OURS
                    else None
                )
                row["conditions"][condition] = entry
    return made


def _threshold(reading: Reading, tuned: float | None) -> float | None:
    return reading.way if isinstance(reading.way, float) else tuned


def _never_answered(heard: Heard) -> str:
    """Why a peer that failed at every call did."""
    errors = [said["error"] for all_ in heard.said.values() for said in all_]
    return one_line(errors[0]) if errors and all(errors) else ""


def costs(said: Sequence[Said], seconds: Sequence[float]) -> Row:
    """``cpu_s_per_audio_s``, ``failed`` (calls at which it raised) and ``first_failure``."""
    errors = [each["error"] for each in said if each["error"]]
    spent = sum(each["cpu_s"] for each in said)
    return {
        "cpu_s_per_audio_s": round(spent / sum(seconds), 6),
        "failed": len(errors),
        "first_failure": one_line(errors[0]) if errors else None,
    }


def findings(made: Sequence[Row]) -> dict[str, Any]:
    """By condition what peers.py documents, by macro F1; and ``did_not_run``, keys."""
    found: dict[str, Any] = {"did_not_run": [row["key"] for row in made if row["reason"]]}
    for condition in CONDITIONS:
        entries = {
            row["key"]: row["conditions"][condition]
            for row in made
            if not row["reason"] and row["peer"] != OURS
        }
        f1 = {key: entry["f1"]["value"] for key, entry in entries.items()}
        mine: Mapping[str, Any] = next((row for row in made if row["key"] == OURS), {})
        own = mine["conditions"][condition]["f1"]["value"] if mine.get("conditions") else None
        best = max(f1, key=f1.__getitem__, default=None)
        found[condition] = {
            "ours_f1": own,
            "best_peer": best,
            "best_peer_f1": f1[best] if best else None,
            "lead": (entries[best]["ours_ahead"] or {}).get("f1") if best else None,
            "ahead_of_all": own > f1[best] if own is not None and best else None,
        }
    return found


def described(recordings: Sequence[Recording]) -> dict[str, Any]:
    """What was asked about: calls, speakers, calls of each gender, seconds."""
    seconds = [recording.seconds("wideband") for recording in recordings]
    return {
        "calls": len(recordings),
        "speakers": len({recording.person for recording in recordings}),
        "female": sum(recording.truth == "female" for recording in recordings),
        "male": sum(recording.truth == "male" for recording in recordings),
        "seconds_of_audio": round(sum(seconds), 1),
        "median_seconds": round(statistics.median(seconds), 2),
    }
