"""CPU cost of a second of call: our signal path beside what one would build instead, in one run.

    python benchmarks/peer_cost.py --json OUT.json --markdown OUT.md --picture OUT.png

Every row is a process of its own, kept to one core and one thread, that hears the same bytes: both
sides of the demo call as two calls, about half of them silence, behind the same speech gate. Rows
take turns round by round, so that a busy machine disturbs all; ours most, whose short steps find
their caches taken, so quote ratios from a quiet one. CPU time is user and system time after loading
and a warm-up; the figure is the median round.

Peers that give running predictions do it the usual way: the last three seconds of speech through
an encoder, every half second in which there was speech. Weights are random where the trained ones
would have to be downloaded; they cost the same. Choices favour the peers: they resample nothing,
the embedding runtimes get the smaller published ECAPA-TDNN, and none has a classifier.

Peers are installed into virtual environments under --environments, from pinned versions, once; the
first run takes a few minutes. One that cannot be installed or cannot run becomes a row that says
why, and the exit status stays 0.

JSON keys: ``rows`` (``key``, ``title``, ``group``, ``what``, ``version``, ``running_predictions``,
``neural``, ``cpu_ms_per_call_s`` with ``cpu_ms_min`` and ``cpu_ms_max`` over rounds, ``ratio`` to
ours, ``predictions_per_call_s``, ``reason`` if it did not run), ``findings`` (``pipeline_ratio``,
``next_best``, ``next_best_ratio``: the cheapest neural peer with running predictions,
``did_not_run``), ``complete`` (every row ran), ``seconds``, ``rounds``, ``calls``,
``speech_share``, ``device``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from latency import DEMO, device_name
from neighbours.catalogue import PEERS, SPEECHBRAIN, Peer
from neighbours.child import Calls, whole
from neighbours.report import findings, markdown, picture, row, server_row, with_ratios
from neighbours.running import Child, Unavailable, ecapa_file, interpreter
from rich.console import Console
from rich.progress import Progress

from streamer.audio.codec import SAMPLE_RATE, Encoding, encode
from streamer.audio.speech_gate import speech_of

console = Console(stderr=True)
CALLS = 48
"""Of our own row, side by side: they fill a step with seven blocks, as those of a server at 70 % of
its capacity do (``mean_batch`` of throughput.py)."""


def demo_calls(seconds: int) -> Calls:
    """Each side of the demo call as mu-law, repeated to ``seconds``: uint8 [2, n]."""
    sides, _ = soundfile.read(DEMO, dtype="int16", always_2d=True)
    length = seconds * SAMPLE_RATE
    tiled = np.tile(sides, (-(-length // len(sides)), 1))[:length]
    coded = encode(tiled.T.copy(), Encoding.MULAW)
    return np.frombuffer(coded, np.uint8).reshape(sides.shape[1], length)


def start(peer: Peer, audio: Path, options: argparse.Namespace) -> Child:
    """The peer's process, ready for rounds.

    Raises:
        Unavailable: it cannot be installed, fed or loaded.
    """
    folder: Path = options.environments
    python = interpreter(peer.environment, folder)
    ecapa = ecapa_file(SPEECHBRAIN, folder) if peer.ecapa else Path()
    arguments = peer.arguments(audio, options.calls, options.model, ecapa)
    return Child(peer.module, python, arguments, options.core)


def measure(peers: Sequence[Peer], options: argparse.Namespace) -> dict[str, Any]:
    """All rows as the JSON that the module documents."""
    calls = demo_calls(options.seconds)
    children: dict[str, Child] = {}
    reasons: dict[str, str] = {}
    rounds: dict[str, list[dict[str, Any]]] = {peer.key: [] for peer in peers}
    with (
        contextlib.ExitStack() as stack,
        Progress(console=console, refresh_per_second=2, transient=True) as progress,
    ):
        audio = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "calls.npy"
        np.save(audio, calls)
        total = len(peers) * (1 + options.rounds)
        task = progress.add_task("", total=total)
        for peer in peers:
            progress.update(task, description=f"loading {peer.title}")
            try:
                children[peer.key] = start(peer, audio, options)
                stack.callback(children[peer.key].stop)
            except Unavailable as error:
                reasons[peer.key] = str(error)
            progress.advance(task)
        for _ in range(options.rounds):
            for peer in peers:
                progress.update(task, description=f"measuring {peer.title}")
                try:
                    if peer.key not in reasons:
                        rounds[peer.key].append(children[peer.key].round())
                except Unavailable as error:
                    reasons[peer.key] = str(error)
                    rounds[peer.key].clear()
                progress.advance(task)
    rows = []
    for peer in peers:
        version = children[peer.key].version if peer.key in children else None
        rows.append(row(peer, version, rounds[peer.key], reasons.get(peer.key, "")))
    if options.server_json:
        rows.insert(1, server_row(options.server_json))
    rows = with_ratios(rows)
    found = findings(rows)
    return {
        "rows": rows,
        "findings": found,
        "complete": not found["did_not_run"],
        "seconds": options.seconds,
        "rounds": options.rounds,
        "calls": options.calls,
        "speech_share": round(
            sum(len(speech_of(whole(call))) for call in calls) / calls.size,
            3,
        ),
        "device": device_name(),
    }


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line."""
    keys = [peer.key for peer in PEERS]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=int, default=60, help="of a call (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of every row (%(default)s)")
    parser.add_argument(
        "--calls", type=int, default=CALLS, help="side by side in our own row (%(default)s)"
    )
    parser.add_argument("--model", type=Path, help="student; else what the server takes on a CPU")
    parser.add_argument("--only", nargs="+", choices=keys, metavar="KEY", help=", ".join(keys))
    parser.add_argument(
        "--server-json", type=Path, help="result of throughput.py: a row for the whole server"
    )
    parser.add_argument(
        "--environments", type=Path, default=Path("runs/peers"), help="folder (%(default)s)"
    )
    parser.add_argument(
        "--core", type=int, default=max(os.sched_getaffinity(0)), help="that all share (the last)"
    )
    parser.add_argument("--json", type=Path, help="write the result there too")
    parser.add_argument("--markdown", type=Path, help="a table")
    parser.add_argument("--picture", type=Path, help="bars, .png or .svg")
    options = parser.parse_args(arguments)
    if min(options.seconds, options.rounds, options.calls) < 1:
        parser.error("--seconds, --rounds and --calls start at 1")
    return options


def main() -> int:
    """Command line; 0 also if a peer did not run."""
    options = parse()
    options.environments.mkdir(parents=True, exist_ok=True)
    peers = [peer for peer in PEERS if not options.only or peer.key in options.only]
    result = measure(peers, options)
    text = json.dumps(result, indent=1, ensure_ascii=False)
    print(text)
    for entry in result["rows"]:
        if entry["reason"]:
            console.print(f"did not run: {entry['title']}: {entry['reason']}", markup=False)
    if options.json:
        options.json.write_text(text + "\n")
    if options.markdown:
        options.markdown.write_text(markdown(result))
    if options.picture:
        picture(result, options.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
