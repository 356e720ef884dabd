"""Compare with what could be installed instead: gender of adults, and CPU time of a call.

    python benchmarks/peers gender --manifest manifest.tsv --json gender.json
    python benchmarks/peers cost --json cost.json

Each system runs in a virtual environment of its own under --environments, made once from pinned
versions, as a process kept to one core and one thread. One that cannot be installed or run becomes
a row with the reason, and the exit status stays 0.

gender: every labelled adult utterance of a split becomes a call in two conditions, 8 kHz mu-law
telephone (the calls of accuracy.py) and the clean 16 kHz recording, resampled to the rate that the
system requires outside its clock. Ours is the server's signal path without gRPC. A call without an
answer is wrong. The threshold of the tuned pitch row is the best one on --tune-split. JSON keys:
``rows`` [{key, title, peer, what, version, reason, load_cpu_s, peak_mib, conditions}], where
``conditions.<telephone|wideband>`` has n, unanswered, failed, first_failure, cpu_s_per_audio_s,
threshold_hz, and {value, interval} each of accuracy, f1 (macro), female_recall, male_recall,
accuracy_of_answered, and ``ours_ahead`` {accuracy, f1}: ours less theirs on the same drawn
speakers; ``findings`` by condition {ours_f1, best_peer, best_peer_f1, lead, ahead_of_all} and
did_not_run; and what was measured.

cost: rows take turns round by round over the demo call, about half of it silence, behind the same
speech gate. CPU time is user and system time after loading and a warm-up; the figure is the median
round. Quote ratios from a quiet machine. JSON keys: ``rows`` [{key, title, group, what, version,
running_predictions, neural, cpu_ms_per_call_s, cpu_ms_min, cpu_ms_max, ratio (times ours),
predictions_per_call_s, reason}], ``findings`` {pipeline_ratio, next_best, next_best_ratio,
did_not_run}, ``complete``, seconds, rounds, calls, speech_share.

Both also give ``device`` and ``commit``. Exit status: 0; 2 for arguments that cannot be used.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

BENCHMARKS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(BENCHMARKS), str(BENCHMARKS.parent)]  # also as a script

from peers import cost, gender  # noqa: E402
from peers.rows import COST_ROWS, GENDER_ROWS  # noqa: E402

from train.evaluation.machine import code_version, device_name  # noqa: E402
from train.evaluation.tables import Table  # noqa: E402


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; ends the process with status 2 if it makes no sense."""
    made = argparse.ArgumentParser(
        prog="python benchmarks/peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--only", nargs="+", metavar="KEY", help="only these rows")
    shared.add_argument("--model", type=Path, help="ONNX file (the server's on a CPU)")
    folder, last = Path("runs/peers"), max(os.sched_getaffinity(0))
    shared.add_argument("--environments", type=Path, default=folder, help="folder (%(default)s)")
    shared.add_argument("--core", type=int, default=last, help="that all share (%(default)s)")
    shared.add_argument("--json", type=Path, metavar="OUT", help="write all figures")
    verbs = made.add_subparsers(dest="verb", required=True, metavar="gender|cost")
    ask = verbs.add_parser("gender", parents=[shared], help="accuracy on labelled adult calls")
    ask.add_argument("--manifest", type=Path, required=True, help="as accuracy.py reads it")
    ask.add_argument("--split", default="test", help="that is measured (%(default)s)")
    ask.add_argument("--tune-split", default="dev", help="for the pitch threshold (%(default)s)")
    ask.add_argument("--limit", type=int, help="at most so many calls, spread over each split")
    ask.add_argument("--per-speaker", action="store_true", help="one call of up to 60 s each")
    run = verbs.add_parser("cost", parents=[shared], help="CPU time of a second of call")
    run.add_argument("--seconds", type=int, default=60, help="of a call (%(default)s)")
    run.add_argument("--rounds", type=int, default=3, help="of every row (%(default)s)")
    options = made.parse_args(words)
    every = GENDER_ROWS if options.verb == "gender" else COST_ROWS
    options.rows = [row for row in every if not options.only or row.key in options.only]
    for key in options.only or ():
        if key not in [row.key for row in every]:
            made.error(f"--only {key}: no such row; there are {', '.join(r.key for r in every)}")
    for name in ("limit", "seconds", "rounds"):
        number = getattr(options, name, None)
        if number is not None and number < 1:
            made.error(f"--{name} starts at 1")
    if options.verb == "gender" and options.split == options.tune_split:
        made.error("--split and --tune-split must differ")
    if options.json and not options.json.parent.is_dir():
        made.error(f"--json {options.json}: no such folder")
    return options


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; the module's docstring lists the exit status."""
    options = parse(words)
    options.environments.mkdir(parents=True, exist_ok=True)
    module = gender if options.verb == "gender" else cost
    try:
        result = module.measure(options.rows, options, Console(stderr=True))
    except gender.Unusable as error:
        print(error, file=sys.stderr)
        return 2
    result |= {"device": device_name(), "commit": code_version()}
    if options.json:
        text = json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False)
        options.json.write_text(text + "\n", encoding="utf-8")
    absent = [(row["title"], row["reason"]) for row in result["rows"] if row["reason"]]
    for table in (*module.tables(result), Table("Did not run", ("", "reason"), absent)):
        if table.rows:
            table.print(Console())
    return 0


if __name__ == "__main__":
    sys.exit(main())
