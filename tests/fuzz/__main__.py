"""Fuzz the parts that take bytes from outside: ``python tests/fuzz --target codec --runs 100000``.

Coverage-guided, with atheris: the inputs that reach new code of ``streamer/`` are kept and changed
further. Seeds are made in code. An input that shows a defect is written to --crashes; give it to
--repeat. Without --target every target gets --runs inputs; NAME=RUNS gives one its own number.

JSON keys: ``inputs`` (all together), ``command``, ``targets`` (by name, see ``campaign.fuzz``).
Results of targets that are not run now are kept. Exit code 1 if there is a crash, 3 without
atheris.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # this checkout's streamer

import campaign
from targets import NAMES, load


def target_runs(value: str) -> tuple[str, int | None]:
    """NAME or NAME=RUNS."""
    name, _, runs = value.partition("=")
    if name not in NAMES:
        raise argparse.ArgumentTypeError(f"{name}: not one of {', '.join(NAMES)}")
    return name, int(runs) if runs else None


def write(results: dict[str, object], path: Path | None) -> None:
    """Print results, and merge them into a file."""
    kept = json.loads(path.read_text())["targets"] if path and path.exists() else {}
    targets = {name: (kept | results)[name] for name in NAMES if name in kept | results}
    inputs = sum(target["inputs"] for target in targets.values())
    text = json.dumps({"inputs": inputs, "targets": targets}, indent=1)
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


def main() -> int:
    """Command line."""
    if sys.argv[1:2] == ["--child"]:
        campaign.child(sys.argv[2], Path(sys.argv[3]), sys.argv[4:])
        return 0
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", type=target_runs, action="append", help="NAME or NAME=RUNS")
    parser.add_argument("--runs", type=int, default=10_000, help="inputs of each (%(default)s)")
    parser.add_argument("--seconds", type=int, default=0, help="of each at most (no limit)")
    parser.add_argument("--seed", type=int, default=1, help="of the mutations (%(default)s)")
    parser.add_argument("--json", type=Path, help="write the results there too")
    parser.add_argument("--crashes", type=Path, default=Path("fuzz-crashes"), help="(%(default)s)")
    parser.add_argument("--repeat", type=Path, help="run this one input of --target, and no other")
    options = parser.parse_args()
    campaign.quiet()
    targets = options.target or [(name, None) for name in NAMES]
    if options.repeat:
        load(targets[0][0]).run(options.repeat.read_bytes())
        return 0
    if not campaign.available():
        sys.stderr.write("atheris is not installed: pip install atheris (Python before 3.14)\n")
        return 3
    results = {}
    for name, runs in targets:
        result = campaign.fuzz(
            name, runs or options.runs, options.seconds, options.seed, options.crashes
        )
        result["command"] = shlex.join(
            [
                "python",
                "tests/fuzz",
                "--target",
                f"{name}={runs or options.runs}",
                "--seconds",
                str(options.seconds),
                "--seed",
                str(options.seed),
            ]
        )
        results[name] = result
        sys.stdout.write(f"{json.dumps({name: result}, indent=1)}\n")
        sys.stdout.flush()
        write(results, options.json)
    return 1 if any(result["crashes"] for result in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
