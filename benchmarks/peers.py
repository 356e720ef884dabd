"""Gender of adults: what a user could install instead, beside ours, on the same test calls.

Every labelled adult utterance of a split becomes a call in two conditions: 8 kHz mu-law telephone
(exactly the calls of accuracy.py) and the clean 16 kHz recording. Each peer runs in a virtual
environment of its own, made by this script under --environments from pinned versions, once; as a
process kept to one core and one thread; and hears one call after the other, at the sample rate it
asks for (resampled outside its clock). Ours is the server's signal path without gRPC, in messages
of 100 ms, so it pays for running predictions that no peer gives; 16 kHz it halves itself, as the
server does.

A call that a peer does not answer counts as wrong. A peer that cannot be installed or cannot run
becomes a row that says why, and the exit status stays 0. The threshold of the tuned pitch row is
the one with the best macro F1 on --tune-split, for each condition.

JSON keys (figures are null where nothing could be measured; intervals are [low, high] of 95 %, by
bootstrap over speakers, and null where draws do not vary):

``rows`` [{key, title, peer, what, version, reason, load_cpu_s, peak_mib, conditions}]
    ``reason`` says why it did not run, else empty; ``load_cpu_s`` user and system time until it
    was ready, its first answer included; ``peak_mib`` the most memory its process held
``rows.conditions.<telephone|wideband>``
    ``n``, ``unanswered``; ``accuracy``, ``f1`` (macro), ``female_recall``, ``male_recall``,
    ``accuracy_of_answered``: {value, interval}; ``cpu_s_per_audio_s``: user and system time;
    ``failed``, ``first_failure``: calls at which it raised, among the unanswered;
    ``threshold_hz`` of a pitch row; ``ours_ahead`` {accuracy, f1}: ours less theirs, on the same
    drawn speakers
``findings``
    by condition ``ours_f1``, ``best_peer`` with ``best_peer_f1``, ``lead`` of ours over it {value,
    interval}, ``ahead_of_all``; also ``did_not_run``, keys
``manifest`` (name only), ``split``, ``tune_split``, ``band``, ``per_speaker``, ``limit``, ``seed``
    what was asked for
``calls``, ``speakers``, ``female``, ``male``, ``seconds_of_audio``, ``median_seconds``, ``device``
    what was measured, and on what
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gender_peers.calls import Recording, adults, read, sampled
from gender_peers.report import markdown, picture
from gender_peers.run import Heard, described, findings, hear, rows
from latency import device_name
from neighbours.answerers import ANSWERERS, Answerer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from scoring.manifest import read_manifest
from scoring.plans import Plan, plans

console = Console(stderr=True)


class Unusable(Exception):
    """Arguments or manifest with which nothing can be measured; one line, says which."""


def planned(options: argparse.Namespace, split: str) -> list[Plan]:
    """Calls of a split.

    Raises:
        Unusable: no such manifest, split, or no adult in it.
    """
    try:
        utterances = adults(read_manifest(options.manifest, split))
        found = plans(
            sampled(utterances, options.limit, options.seed), per_speaker=options.per_speaker
        )
    except OSError as error:
        raise Unusable(f"--manifest {options.manifest}: {error.strerror}") from error
    except (csv.Error, ValueError) as error:
        raise Unusable(f"--manifest: {error}") from error
    if not found:
        raise Unusable(f"--manifest: split {split} has no adult of known gender and age")
    return found


def recordings(todo: Sequence[Plan], options: argparse.Namespace, bar: Progress) -> list[Recording]:
    """The audio of all calls."""
    task = bar.add_task("reading audio", total=len(todo))
    found = []
    for plan in todo:
        try:
            found.append(read(plan, options.band))
        except ValueError as error:
            raise Unusable(f"--manifest: {error}") from error
        bar.advance(task)
    bar.remove_task(task)
    return found


def measure(answerers: Sequence[Answerer], options: argparse.Namespace) -> dict[str, Any]:
    """The JSON that the module documents.

    Raises:
        Unusable: see :func:`planned`; also for a file that cannot be read.
    """
    todo = planned(options, options.split)
    tunes = any(answerer.tunes for answerer in answerers)
    to_tune = planned(options, options.tune_split) if tunes else []
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    asked: list[tuple[Answerer, Heard]] = []
    with (
        tempfile.TemporaryDirectory() as scratch,
        Progress(*columns, console=console, refresh_per_second=2) as bar,
    ):
        calls = recordings(todo, options, bar)
        tuning = recordings(to_tune, options, bar)
        for answerer in answerers:
            count = 2 * (len(calls) + answerer.tunes * len(tuning))
            task = bar.add_task(answerer.key, total=count)
            heard = hear(
                answerer,
                calls,
                tuning,
                environments=options.environments,
                scratch=Path(scratch),
                model=options.model,
                core=options.core,
                told=lambda task=task: bar.advance(task),  # type: ignore[misc]
            )
            if heard.reason:
                bar.update(task, description=f"{answerer.key}: did not run", total=0)
            asked.append((answerer, heard))
    made = rows(asked, calls)
    return {
        "rows": made,
        "findings": findings(made),
        "manifest": options.manifest.name,
        "split": options.split,
        "tune_split": options.tune_split,
        "band": options.band,
        "per_speaker": options.per_speaker,
        "limit": options.limit,
        "seed": options.seed,
        **described(calls),
        "device": device_name(),
    }


def parser() -> argparse.ArgumentParser:
    """The command line."""
    keys = [answerer.key for answerer in ANSWERERS]
    made = argparse.ArgumentParser(
        prog="python benchmarks/peers.py",
        description=__doc__,
        epilog="A quick look, 60 utterances of as many speakers:\n"
        "  python benchmarks/peers.py --manifest manifest.tsv --limit 60 --peers ours pitch\n"
        "Everything, about a quarter of an hour on one core after the environments are made:\n"
        "  python benchmarks/peers.py --manifest manifest.tsv --json peers.json \\\n"
        "      --markdown peers.md --picture peers.png\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument(
        "--manifest", type=Path, required=True, help="tab-separated, as accuracy.py reads it"
    )
    made.add_argument("--split", default="test", help="that is measured (%(default)s)")
    made.add_argument(
        "--tune-split", default="dev", help="that the pitch threshold is found on (%(default)s)"
    )
    made.add_argument(
        "--limit", type=int, help="at most so many utterances of each split, of as many speakers"
    )
    made.add_argument("--seed", type=int, default=1, help="of that sample (%(default)s)")
    made.add_argument(
        "--per-speaker",
        action="store_true",
        help="join a speaker's utterances into one call of up to 60 s, 0.6 s apart",
    )
    made.add_argument(
        "--band",
        choices=("full", "telephone"),
        default="full",
        help="telephone: cut telephone calls to 300-3400 Hz before coding (%(default)s)",
    )
    made.add_argument(
        "--peers", nargs="+", choices=keys, metavar="KEY", help="only these: " + ", ".join(keys)
    )
    made.add_argument("--model", type=Path, help="student; else what the server takes on a CPU")
    made.add_argument(
        "--environments",
        type=Path,
        default=Path("runs/peers"),
        help="folder, shared with peer_cost.py (%(default)s)",
    )
    made.add_argument(
        "--core", type=int, default=max(os.sched_getaffinity(0)), help="of every peer (the last)"
    )
    made.add_argument("--json", type=Path, metavar="OUT", help="write all figures to this file")
    made.add_argument("--markdown", type=Path, metavar="OUT", help="write tables to this file")
    made.add_argument("--picture", type=Path, metavar="OUT", help="write a .png or .svg")
    return made


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line; ends the process with status 2 if it makes no sense."""
    made = parser()
    options = made.parse_args(words)
    if options.limit is not None and options.limit < 1:
        made.error("--limit starts at 1")
    if options.split == options.tune_split:
        made.error("--split and --tune-split must differ: a threshold is not measured where found")
    for flag in ("json", "markdown", "picture"):
        path: Path | None = getattr(options, flag)
        if path is not None and not path.parent.is_dir():
            made.error(f"--{flag} {path}: no such folder")
    return options


def main(words: Sequence[str] | None = None) -> int:
    """Command line; 0 also if a peer did not run, 2 for a manifest that cannot be used."""
    options = parse(words)
    options.environments.mkdir(parents=True, exist_ok=True)
    chosen = [a for a in ANSWERERS if not options.peers or a.key in options.peers]
    try:
        result = measure(chosen, options)
    except Unusable as error:
        print(error, file=sys.stderr)
        return 2
    text = json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    if options.json:
        options.json.write_text(text, encoding="utf-8")
    if options.markdown:
        options.markdown.write_text(markdown(result), encoding="utf-8")
    if options.picture:
        picture(result, options.picture)
    print(markdown(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
