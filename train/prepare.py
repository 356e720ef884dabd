"""Read a corpus as it was downloaded and write manifests that training can use.

    python -m train.prepare tsv my/recordings runs/prepared/mine

Writes ``recordings``, ``supervisions`` and ``cuts.{train,dev,test}`` (lhotse, ``.jsonl.gz``),
``rejected.jsonl``, ``prepare.json`` and ``report.html``. Audio stays where it is: the manifests
hold the absolute paths of the files under IN as they were when this ran.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveFloat, ValidationError, field_validator
from pydantic_settings import CliApp, CliPositionalArg, SettingsConfigDict
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from train.command import Command
from train.corpora.audio import AudioInfo
from train.corpora.checks import audible, of_one_gender
from train.corpora.clip import Clip
from train.corpora.faults import Unusable
from train.corpora.headers import Journal, read_headers
from train.corpora.manifests import (
    cut_of,
    recording_of,
    supervision_of,
    write_jsonl,
    write_text,
)
from train.corpora.report import render
from train.corpora.sources import SOURCES
from train.corpora.split import SPLITS, Assignment, assign, cap, check_fractions, place
from train.corpora.utterance import Rejected, Utterance


class Prepare(Command):
    """Read a corpus as it was downloaded and write manifests that training can use.

    SOURCE is the kind of corpus, IN its folder (for tsv also the list itself), OUT a folder for
    the result. Stopped in the middle, the same command goes on where it was: headers that were
    read are remembered in OUT/headers.jsonl (delete it if audio files have changed). Look at
    OUT/report.html afterwards: it counts what there is and what was rejected and why.
    """

    model_config = SettingsConfigDict(cli_prog_name="python -m train.prepare")

    source: CliPositionalArg[Literal["aihub-fcvg", "aihub-fcve", "aihub-ltv", "commonvoice", "tsv"]]
    """aihub-fcvg, aihub-fcve: free conversation of adults, of elderly people; aihub-ltv:
    low-quality telephone speech; commonvoice: a release or one language of it; tsv: a list of
    your own recordings (train/README.md shows one)"""
    folder: CliPositionalArg[Path] = Field(validation_alias="in")
    """the corpus, packed in its zip files or unpacked"""
    out: CliPositionalArg[Path]
    """folder for manifests and report; made if absent"""
    splits: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """share of speakers in train, dev and test; splits that the corpus gives itself are kept"""
    max_clips_per_speaker: int = Field(200, ge=0)
    """more clips of one speaker are left out at random; 0 keeps all"""
    min_seconds: float = Field(0.5, ge=0)
    """shorter clips are rejected"""
    max_seconds: PositiveFloat = 60.0
    """longer clips are rejected: they tend to hold more than one speaker"""
    seed: int = 1
    """of splits, cap and order; the same seed and corpus give the same files"""
    jobs: int = Field(os.cpu_count() or 1, ge=1)
    """threads that read audio headers; more than there are cores pays on a network disk"""
    licence: str = ""
    """written into the manifests instead of the source's value"""
    language: str = ""
    """ISO 639 code, written into the manifests instead of the source's value"""
    as_json: bool = Field(default=False, validation_alias="json")
    """print the summary as JSON to standard output"""

    @field_validator("splits")
    @classmethod
    def _whole(cls, value: tuple[float, float, float]) -> tuple[float, float, float]:
        check_fractions(dict(zip(SPLITS, value, strict=True)))
        return value

    def cli_cmd(self) -> None:
        """Entry point of the command line."""
        console = Console(stderr=True)
        try:
            summary = prepare(self, console)
        except (ValueError, OSError) as error:
            sys.exit(f"train.prepare: {error}")
        if self.as_json:
            print(json.dumps(summary, ensure_ascii=False, indent=2))
        else:
            _show(summary, self.out, console)


@dataclass
class Gathered:
    """What a run has found so far.

    Attributes:
        clips: with usable labels and audio.
        rejected: everything with a fault.
        read: labelled utterances that the source has yielded.
    """

    clips: list[Clip] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    read: int = 0


def prepare(settings: Prepare, console: Console) -> dict[str, Any]:
    """Prepare all sources; returns the content of ``prepare.json``.

    Raises:
        ValueError: nothing to read at IN, or nothing usable in it.
        OSError: OUT cannot be written.
    """
    settings.out.mkdir(parents=True, exist_ok=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        gathered = Gathered()
        utterances = _labels(settings, gathered, progress)
        headers = _headers(settings, utterances, progress)
    clips, unheard = audible(utterances, headers, settings.min_seconds, settings.max_seconds)
    gathered.clips, contradictory = of_one_gender(clips)
    gathered.rejected += unheard + contradictory
    write_jsonl(settings.out / "rejected.jsonl", (asdict(one) for one in gathered.rejected))
    if not gathered.clips:
        most = Counter(one.reason for one in gathered.rejected).most_common(3)
        reasons = ", ".join(f"{reason} ({number})" for reason, number in most) or "no labels found"
        raise ValueError(f"{settings.folder}: nothing usable: {reasons}; see rejected.jsonl")
    shares = dict(zip(SPLITS, settings.splits, strict=True))
    assignment = assign(gathered.clips, shares, settings.seed)
    kept = cap(gathered.clips, settings.max_clips_per_speaker, settings.seed)
    clips = place(sorted(kept, key=lambda clip: clip.id), assignment.splits)
    random.Random(settings.seed).shuffle(clips)  # streaming readers see a mix from the start
    summary = _summary(settings, gathered, clips, assignment)
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        _write(settings.out, clips, progress)
    title = f"{settings.source}: {settings.folder.name}"
    page = render(clips, gathered.rejected, summary, title)
    write_text(settings.out / "report.html", page)
    # last: where it is, the rest is too
    write_text(
        settings.out / "prepare.json", json.dumps(summary, ensure_ascii=False, indent=2) + "\n"
    )
    return summary


def _labels(settings: Prepare, gathered: Gathered, progress: Progress) -> list[Utterance]:
    """Utterances in the order of the source, each id once."""
    task = progress.add_task("labels", total=None)
    found: dict[tuple[str, str], Utterance] = {}
    for one in SOURCES[settings.source](settings.folder.resolve()):
        progress.advance(task)
        if isinstance(one, Rejected):
            gathered.rejected.append(one)
            continue
        gathered.read += 1
        key = one.corpus, one.id
        if key in found:
            first = found[key].source
            gathered.rejected.append(Rejected(one.source, "id repeated", f"{one.id}, as {first}"))
        else:
            found[key] = replace(
                one,
                licence=settings.licence or one.licence,
                language=settings.language or one.language,
            )
    progress.update(task, total=gathered.read + len(gathered.rejected))
    return list(found.values())


def _headers(
    settings: Prepare, utterances: Iterable[Utterance], progress: Progress
) -> dict[str, AudioInfo | Unusable]:
    """Header of every audio file, or why there is none."""
    sources = sorted({utterance.source for utterance in utterances})
    task = progress.add_task("audio", total=len(sources))
    journal = Journal(settings.out / "headers.jsonl")
    headers: dict[str, AudioInfo | Unusable] = {}
    for source, found in read_headers(sources, journal, settings.jobs):
        headers[source] = found
        progress.advance(task)
    return headers


def _summary(
    settings: Prepare, gathered: Gathered, clips: list[Clip], assignment: Assignment
) -> dict[str, Any]:
    splits: dict[str, Any] = {}
    for split in SPLITS:
        members = [clip for clip in clips if clip.split == split]
        cells = Counter(
            f"{clip.utterance.gender} {clip.utterance.age_band or 'unknown'}" for clip in members
        )
        splits[split] = {
            "clips": len(members),
            "speakers": len({clip.speaker for clip in members}),
            "hours": round(sum(clip.seconds for clip in members) / 3600, 4),
            "clips_by_gender_and_band": dict(sorted(cells.items())),
        }
    chosen = settings.model_dump(mode="json", exclude={"jobs", "as_json", "folder", "out"})
    return {
        "settings": chosen | {"in": str(settings.folder.resolve())},
        "read": gathered.read,
        "kept": len(clips),
        "capped": len(gathered.clips) - len(clips),
        "rejected": dict(Counter(one.reason for one in gathered.rejected).most_common()),
        "leaked_speakers": {
            f"{corpus}/{name}": given for (corpus, name), given in assignment.leaked.items()
        },
        "splits": splits,
    }


def _write(out: Path, clips: list[Clip], progress: Progress) -> None:
    task = progress.add_task("manifests", total=3 * len(clips))

    def rows(form: Callable[[Clip], Any], chosen: Iterable[Clip]) -> Iterator[dict[str, Any]]:
        for clip in chosen:
            progress.advance(task)
            yield form(clip).to_dict()

    write_jsonl(out / "recordings.jsonl.gz", rows(recording_of, clips))
    write_jsonl(out / "supervisions.jsonl.gz", rows(supervision_of, clips))
    for split in SPLITS:
        members = (clip for clip in clips if clip.split == split)
        write_jsonl(out / f"cuts.{split}.jsonl.gz", rows(cut_of, members))


def _show(summary: dict[str, Any], out: Path, console: Console) -> None:
    table = Table("split", "clips", "speakers", "hours")
    for split, of in summary["splits"].items():
        table.add_row(split, f"{of['clips']:,}", f"{of['speakers']:,}", f"{of['hours']:.2f}")
    console.print(table)
    console.print(f"kept {summary['kept']:,} of {summary['read']:,}, capped {summary['capped']:,}")
    for reason, number in summary["rejected"].items():
        console.print(f"rejected {number:,}: {reason}")
    if summary["leaked_speakers"]:
        console.print(f"moved {len(summary['leaked_speakers']):,} speakers out of several splits")
    console.print(f"report: {out / 'report.html'}", soft_wrap=True)


def main(args: list[str] | None = None) -> None:
    """Run with these arguments, or those of the process; exits with a message on bad ones."""
    try:
        CliApp.run(Prepare, cli_args=args)
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        sys.exit("\n".join(f"train.prepare: {fault}" for fault in faults))


if __name__ == "__main__":
    main()
