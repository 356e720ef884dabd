"""Ask every system about the gender of every call, and make rows of the answers."""

from __future__ import annotations

import argparse
import contextlib
import csv
import random
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from peers.environments import Child, Unavailable, one_line
from peers.figures import GENDERS, best_threshold, by_pitch, difference, findings, score
from peers.rows import GENDER_ROWS, GenderRow, System
from rich.console import Console
from rich.progress import Progress
from scoring.calls import MAX_CALL_SECONDS, PAUSE_SECONDS, Band, join, read_sound
from scoring.manifest import CallPlan, Utterance, plan_calls, read_manifest

from streamer.audio.codec import SAMPLE_RATE, Encoding, Samples, decode, encode
from train.corpora.audio import read_audio, resample

Row = dict[str, Any]

CONDITIONS = ("telephone", "wideband")
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


def sampled(utterances: Sequence[Utterance], limit: int | None, seed: int) -> list[Utterance]:
    """Draw at most ``limit`` utterances, one of every speaker before a second one of any."""
    if limit is None or limit >= len(utterances):
        return list(utterances)
    chance = random.Random(seed)
    speakers: dict[tuple[str, ...], list[int]] = {}
    for number, utterance in enumerate(utterances):
        alone = () if utterance.speaker else (str(number),)
        speakers.setdefault((utterance.corpus, utterance.speaker, *alone), []).append(number)
    ranked = []
    for numbers in speakers.values():
        chance.shuffle(numbers)
        ranked += [(turn, chance.random(), number) for turn, number in enumerate(numbers)]
    return [utterances[n] for n in sorted(number for *_, number in sorted(ranked)[:limit])]


def read(plan: CallPlan, band: Band) -> Recording:
    """Read the audio of a call; raises ValueError naming a file that cannot be read."""
    telephone = join(read_sound(path, band) for path in plan.paths)
    pause = np.zeros(round(PAUSE_SECONDS * WIDE_RATE), np.int16)
    parts = [part for path in plan.paths for part in (pause, read_audio(str(path), WIDE_RATE))]
    most = round(MAX_CALL_SECONDS * WIDE_RATE)
    return Recording(plan.gender, plan.speaker_key, telephone, np.concatenate(parts[1:])[:most])


def recordings(split: str, options: argparse.Namespace, progress: Progress) -> list[Recording]:
    """Read the adult calls of a split; raises Unusable if there are none."""
    try:
        adults = [
            u
            for u in read_manifest(options.manifest, split)
            if u.gender in GENDERS and u.age_band not in ("", "child")
        ]
        drawn = sampled(adults, options.limit, options.seed)
        plans = plan_calls(drawn, per_speaker=options.per_speaker)
        track = progress.track(plans, description="reading audio")
        found = [read(plan, options.band) for plan in track]
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
    scratch: Path,
    progress: Progress,
) -> Row:
    """Ask one system about every call.

    Returns:
        ``version``, ``load_cpu_s`` (until ready, first answer included: libraries delay work until
        then), ``replies`` and ``thresholds`` by condition; raises Unavailable.
    """
    child = Child(system, options.environments, options.model, options.core)

    def ask(recording: Recording, condition: str) -> Row:
        data, encoding, rate = recording.form(condition, system)
        scratch.write_bytes(data)
        return child.ask(scratch, encoding, rate)

    with contextlib.ExitStack() as stack:
        stack.callback(child.stop)
        found: Row = {"version": child.version, "replies": {}, "thresholds": {}}
        found["load_cpu_s"] = child.ready["cpu_s"] + ask(calls[0], "telephone")["cpu_s"]
        for condition in CONDITIONS:
            bar = f"{system.key}, {condition}"
            if tuning and any(r.read == "tuned" for r in GENDER_ROWS if r.system is system):
                replies = [ask(call, condition) for call in progress.track(tuning, description=bar)]
                hertz = [r["answers"][0]["hertz"] if r["answers"] else None for r in replies]
                found["thresholds"][condition] = best_threshold([r.truth for r in tuning], hertz)
            found["replies"][condition] = [
                ask(recording, condition) for recording in progress.track(calls, description=bar)
            ]
    return found


def read_answers(
    row: GenderRow, replies: Sequence[Row], threshold: float | None
) -> tuple[list[str], float | None]:
    """Return the answers of a row, empty for none, and its threshold in Hz if it has one."""
    answers = [reply["answers"][0] if reply["answers"] else {} for reply in replies]
    if isinstance(row.read, str) and row.read != "tuned":
        return [answer.get(row.read) or "" for answer in answers], None
    hertz = threshold if row.read == "tuned" else float(row.read)
    assert hertz is not None, "a tuned row has a threshold"
    return by_pitch([answer.get("hertz") for answer in answers], hertz), hertz


def gender_rows(rows: Sequence[GenderRow], collected: Row, calls: Sequence[Recording]) -> list[Row]:
    """Make the rows of the table; ``collected`` has the replies of each system, or a reason."""
    truth, speakers = [c.truth for c in calls], [c.speaker for c in calls]
    ours: dict[str, list[str]] = {}
    made: list[Row] = []
    for row in rows:
        found = collected[row.system.key]
        replies = found.get("replies", {})
        errors = [reply["error"] for each in replies.values() for reply in each]
        reason = found.get("reason", "")
        reason = one_line(errors[0]) if errors and all(errors) else reason
        entry: Row = {"key": row.key, "title": row.title, "peer": row.system.key, "what": row.what}
        entry |= {"version": found.get("version"), "reason": reason}
        entry |= {"load_cpu_s": None, "peak_mib": None, "conditions": {}}
        made.append(entry)
        if reason:
            continue
        entry["load_cpu_s"] = round(found["load_cpu_s"], 2)
        entry["peak_mib"] = round(max(r["peak_mib"] for each in replies.values() for r in each))
        for condition, each in replies.items():
            answers, hertz = read_answers(row, each, found["thresholds"].get(condition))
            if row.key == "ours":
                ours[condition] = answers
            failures = [reply["error"] for reply in each if reply["error"]]
            compared = condition in ours and row.system.key != "ours"
            spent = sum(reply["cpu_s"] for reply in each)
            entry["conditions"][condition] = {
                **score(truth, answers, speakers),
                "cpu_s_per_audio_s": round(spent / sum(c.seconds(condition) for c in calls), 6),
                "failed": len(failures),
                "first_failure": one_line(failures[0]) if failures else None,
                "threshold_hz": hertz,
                "ours_ahead": difference(truth, ours[condition], answers, speakers)
                if compared
                else None,
            }
    return made


def measure(rows: Sequence[GenderRow], options: argparse.Namespace, console: Console) -> Row:
    """Measure the gender rows; raises Unusable for a manifest that cannot be used."""
    collected: Row = {}
    with tempfile.TemporaryDirectory() as folder, Progress(console=console) as progress:
        calls = recordings(options.split, options, progress)
        tunes = any(row.read == "tuned" for row in rows)
        tuning = recordings(options.tune_split, options, progress) if tunes else []
        for system in {row.system.key: row.system for row in rows}.values():
            scratch = Path(folder) / "call.raw"
            try:
                found = ask_gender(system, calls, tuning, options, scratch, progress)
            except Unavailable as error:
                found = {"reason": str(error)}
            collected[system.key] = found
    made = gender_rows(rows, collected, calls)
    seconds = [call.seconds("wideband") for call in calls]
    given = ("split", "tune_split", "band", "per_speaker", "limit", "seed")
    return {
        "rows": made,
        "findings": findings(made, CONDITIONS),
        "manifest": options.manifest.name,
        **{name: getattr(options, name) for name in given},
        "calls": len(calls),
        "speakers": len({call.speaker for call in calls}),
        **{name: sum(call.truth == name for call in calls) for name in GENDERS},
        "seconds_of_audio": round(sum(seconds), 1),
        "median_seconds": round(statistics.median(seconds), 2),
    }
