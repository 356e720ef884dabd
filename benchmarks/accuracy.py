"""Measure the accuracy: labelled speech through the real server, as telephone calls.

Every utterance of a manifest's split becomes an 8 kHz mu-law call in messages of 100 ms; with
``--per-speaker`` the utterances of a speaker are joined into one call of up to 60 s with pauses of
0.6 s. The prediction of a call is the likeliest class of its final calibrated posterior, whether
the server decided or not; a call in which the server found no speech counts as wrong.

Beside every figure stands its 95 % interval, by resampling speakers with all their calls.

Exit status: 0, 1 if every call failed, 2 for arguments or a manifest that cannot be used.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import csv
import json
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from scoring.calls import Outcome, make_calls
from scoring.manifest import CallPlan, plan_calls, read_manifest
from scoring.report import calibration_picture, markdown, picture, show
from scoring.result import FORMAT, assemble
from scoring.scores import Classes

from streamer.client import Client
from streamer.inference.model import DEFAULT_MODEL, OnnxModel
from streamer.process.local_server import local_server
from train.evaluation.machine import code_version, device_name

OUTPUTS = {
    "json": "all figures",
    "markdown": "the tables",
    "picture": "a PNG of accuracy by amount of speech and of calibration",
    "calibration_picture": "a PNG of the reliability diagrams of all tasks, with intervals",
}
OUTPUT_FLAGS = {name: f"--{name.replace('_', '-')}" for name in OUTPUTS}
PATH_FLAGS = ("--manifest", "--model", *OUTPUT_FLAGS.values())


class Unusable(Exception):
    """Arguments, manifest or model that cannot be used; the message is one line."""


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    made = argparse.ArgumentParser(
        prog="python benchmarks/accuracy.py",
        description=__doc__,
        epilog=f"JSON keys, and what each figure means:\n\n{FORMAT}\n"
        "The model card is made from this JSON: python -m train.release.model_card --help\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # the command is shown in the results as it was typed
    )
    text = (
        "tab-separated, with columns id, corpus, speaker, gender, age_band, split, path and, for "
    )
    text += "figures by language, language; paths are relative to it; an empty cell is unknown"
    made.add_argument("--manifest", type=Path, required=True, help=text)
    made.add_argument("--split", required=True, help="value of the column split to measure")
    made.add_argument(
        "--per-speaker", action="store_true", help="join a speaker's utterances into one call"
    )
    made.add_argument(
        "--band",
        choices=("full", "telephone"),
        default="full",
        help="telephone: cut to 300-3400 Hz before coding (%(default)s)",
    )
    made.add_argument(
        "--limit", type=_positive, help="at most so many calls, spread evenly over the split (all)"
    )
    made.add_argument(
        "--target", metavar="HOST:PORT", help="a running server; without it one is started"
    )
    made.add_argument(
        "--model", type=Path, help="ONNX file for the server that is started (its own default)"
    )
    made.add_argument(
        "--concurrency", type=_positive, default=16, help="calls at a time (%(default)s)"
    )
    for name, what in OUTPUTS.items():
        flag, text = OUTPUT_FLAGS[name], f"write {what} to this file"
        made.add_argument(flag, type=Path, metavar="OUT", help=text)
    return made


def shown_command(argv: Sequence[str]) -> str:
    """Format the command line without machine paths and addresses, for publication."""
    words: list[str] = []
    flag = ""
    for word in argv:
        name, equals, value = word.partition("=")
        if equals and name.startswith("--"):
            words.append(f"{name}={_public(name, value)}")
        else:
            words.append(_public(flag, word))
        flag = word
    return shlex.join(["python", "benchmarks/accuracy.py", *words])


def _public(flag: str, value: str) -> str:
    if flag in PATH_FLAGS:
        return Path(value).name
    return "HOST:PORT" if flag == "--target" else value


def planned(arguments: argparse.Namespace) -> list[CallPlan]:
    """Plan the calls; raises Unusable for a manifest that cannot be used."""
    try:
        utterances = read_manifest(arguments.manifest, arguments.split)
        return plan_calls(utterances, per_speaker=arguments.per_speaker, limit=arguments.limit)
    except OSError as error:
        raise Unusable(f"--manifest {arguments.manifest}: {error.strerror}") from error
    except csv.Error as error:
        raise Unusable(f"--manifest {arguments.manifest}: not a table: {error}") from error
    except ValueError as error:
        raise Unusable(f"--manifest: {error}") from error


def check_outputs(arguments: argparse.Namespace) -> None:
    """Raise Unusable for an output in a missing folder, before the calls are made."""
    for name, flag in OUTPUT_FLAGS.items():
        path: Path | None = getattr(arguments, name)
        if path is not None and not path.parent.is_dir():
            raise Unusable(f"{flag} {path}: no such folder")


@contextlib.contextmanager
def server(arguments: argparse.Namespace) -> Iterator[str]:
    """Yield HOST:PORT of the server to measure; raises Unusable if none can be started."""
    if arguments.target:
        yield arguments.target
        return
    model = ("--model", str(arguments.model)) if arguments.model else ()
    with contextlib.ExitStack() as stack:
        try:
            target = stack.enter_context(local_server(*model)).target
        except RuntimeError as error:
            raise Unusable(f"the server does not start: {' '.join(str(error).split())}") from error
        yield target


async def measure(
    target: str, plans: Sequence[CallPlan], arguments: argparse.Namespace, console: Console
) -> dict[str, Any]:
    """Make all calls and score them.

    Raises:
        Unusable: a label of the manifest is no class of the server's model.
        grpc.aio.AioRpcError: the server cannot be reached.
    """
    columns = (TextColumn("calls"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    async with Client(target) as client:
        async with client.call() as probe:
            classes = Classes.of(probe.started)
            await probe.finish()
        for wrong in filter(None, map(classes.unknown_label, plans)):
            raise Unusable(f"--manifest: {wrong}")
        off = not console.is_terminal
        with Progress(*columns, console=console, transient=True, disable=off) as progress:
            bar = progress.add_task("calls", total=len(plans))

            def advance(_: Outcome) -> None:
                progress.advance(bar)

            began = time.monotonic()
            given = {"band": arguments.band, "concurrency": arguments.concurrency}
            outcomes = await make_calls(client, plans, **given, on_outcome=advance)
            wall = time.monotonic() - began
    result = {
        "model": ", ".join(sorted({o.model for o in outcomes} - {""})),
        "manifest": arguments.manifest.name,
        **{name: getattr(arguments, name) for name in ("split", "per_speaker", "band", "limit")},
        "device": device_name(),
        "commit": code_version(),
        **assemble(outcomes, classes),
        "shortcut": None if arguments.target else corpus_probe_of(arguments.model or DEFAULT_MODEL),
    }
    rate = result["seconds_of_audio"] / wall
    console.print(
        f"{wall:.1f} s: {len(plans) / wall:.1f} calls/s, {rate:.0f} s of audio per second"
    )
    return result


def corpus_probe_of(model: Path) -> dict[str, Any] | None:
    """Read the model file's corpus probe: can the corpus be predicted from the embedding?"""
    found: dict[str, Any] | None = OnnxModel(model, provider="cpu").metadata.provenance.get(
        "shortcut"
    )
    return found


def write(result: dict[str, Any], arguments: argparse.Namespace, command: str) -> None:
    """Write the requested files."""
    if arguments.json:
        text = json.dumps(result, indent=2, allow_nan=False, ensure_ascii=False)
        arguments.json.write_text(text + "\n", encoding="utf-8")
    if arguments.markdown:
        arguments.markdown.write_text(markdown(result, command), encoding="utf-8")
    if arguments.picture:
        picture(result, arguments.picture)
    if arguments.calibration_picture:
        calibration_picture(result, arguments.calibration_picture)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the module's docstring lists the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    made = parser()
    arguments = made.parse_args(words)
    if arguments.target and arguments.model:
        made.error("--model is for a server that is started here; --target names a running one")
    console = Console(stderr=True)
    try:
        check_outputs(arguments)
        plans = planned(arguments)
        with server(arguments) as target:
            result = asyncio.run(measure(target, plans, arguments, console))
    except Unusable as error:
        print(error, file=sys.stderr)
        return 2
    except grpc.aio.AioRpcError as error:
        print(f"--target {target}: {error.code().name}: {error.details()}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    # Files first: the terminal may be a closed pipe.
    write(result, arguments, shown_command(words))
    show(result, Console())
    return 1 if result["failed"] == result["calls"] else 0


if __name__ == "__main__":
    sys.exit(main())
