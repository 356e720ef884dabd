"""Train and test the rows of the paper's Table 1 in several seeds, on any prepared corpora.

    python -m train.experiments.table1 --dry-run                           # what is missing
    python -m train.experiments.table1 --rows telephone --seeds 1 2 3      # train and test it
    python -m train.experiments.table1_summary > table1.md                  # the table

Each run is one process of train.pretrain or train.distill with the flags of its row and of the
recipe. A finished run is tested on whole utterances of the test split and leaves a record, an .npz
of final posteriors; a run that has a record of the same flags is not repeated. All may be killed
and started again: training resumes from its checkpoint. Two commands on one work folder share the
rows.

Data: prepare corpora (python -m train.prepare), shard them (train.shard), and simulate the
telephone once (train.simulate_calls), see docs/training/. Folders in --clean also hold the clean
twins for the teachers. Real telephone recordings may be used as --telephone directly. For the
in-house block --inhouse and --inhouse-clean are the smaller corpus, --rest and --rest-clean all
others: the rows are fine-tuned from a telephone base that was trained without the former.

Recipe: --ecapa, --resnet and --finetune take flags of the training commands, such as
--ecapa width=64 epochs=8 compile=no. Give the same in every command of one table: put the words
into a file, one a line, and write @FILE.

Exit status: 0, 1 if a run failed, 2 for arguments that cannot be used.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import fnmatch
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from train.experiments.table1_record import measure_run, read
from train.experiments.table1_rows import (
    ABLATIONS,
    FIRST_SEED,
    PAPER_ROWS,
    PREPARATION,
    RECIPE,
    ROWS,
    Folders,
    TableRow,
    command,
    flags_of,
    setting,
)

ROOT = Path(__file__).resolve().parents[2]
ROLES = {
    "clean": (["runs/shards"], "clean speech, 16 kHz"),
    "telephone": (["runs/calls"], "the same as calls (train.simulate_calls)"),
    "inhouse": (None, "calls of the smaller corpus"),
    "inhouse-clean": (None, "the same, clean"),
    "rest": (None, "calls of all other corpora"),
    "rest-clean": (None, "the same, clean"),
}


class RunFailed(Exception):
    """Training or test of a run ended with an error."""


class Busy(Exception):
    """Another process trains this run."""


@dataclass(frozen=True)
class Run:
    """One run of a row, with its flags: no paths, folders by role and other runs by name."""

    row: TableRow
    seed: int
    flags: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of its folder and record."""
        return f"{self.row.id}-s{self.seed}"


def chosen(options: argparse.Namespace) -> list[TableRow]:
    """Return the requested rows in the table's order; raises ValueError for an unknown one."""
    if options.only:
        for pattern in options.only:
            if not fnmatch.filter(ROWS, pattern):
                raise ValueError(f"--only {pattern}: no such row; there are {', '.join(ROWS)}")
        return [r for r in ROWS.values() if any(fnmatch.fnmatchcase(r.id, p) for p in options.only)]
    blocks = set(options.rows) | ({"preparation"} if "inhouse" in options.rows else set())
    rows = [row for row in (*PAPER_ROWS, *PREPARATION) if row.block in blocks]
    return [*rows, *(ABLATIONS if options.ablations else ())]


def missing_runs(rows: Sequence[TableRow], options: argparse.Namespace) -> list[Run]:
    """Return the runs without a record of their flags, each after the runs that it needs.

    Seeds come in turn, so that a first full table is ready early. A run that another needs is
    also repeated if its record is there and its checkpoint is not.
    """
    order: dict[str, Run] = {}

    def add(row: TableRow, seed: int, *, needed: bool) -> None:
        run = Run(row, seed, flags_of(row, seed, options))
        lost = needed and not (options.work / run.name / "last.pt").exists()
        if run.name in order or not (lost or record_flags(run, options) != list(run.flags)):
            return
        for name in row.needs:
            add(ROWS[name], seed if row.source else FIRST_SEED, needed=True)
        order[run.name] = run

    listed = [(row, row.seeds(options.seeds, options.ablation_seeds)) for row in rows]
    for turn in range(max((len(seeds) for _, seeds in listed), default=0)):
        for row, seeds in listed:
            if turn < len(seeds):
                add(row, seeds[turn], needed=False)
    return list(order.values())


def record_flags(run: Run, options: argparse.Namespace) -> list[str] | None:
    """Return the flags of a run's record, None without one."""
    path = options.work / f"{run.name}.npz"
    flags: list[str] | None = read(path).meta["flags"] if path.exists() else None
    return flags


@contextlib.contextmanager
def lock(path: Path) -> Iterator[IO[str] | None]:
    """Hold a lock file; yields None if another process holds it.

    The training process inherits the lock: if this process is killed, the next one does not start
    the same run while the training goes on.
    """
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        yield file


def make(run: Run, folders: Folders, options: argparse.Namespace) -> None:
    """Train a run, test it and write its record; raises Busy or RunFailed."""
    with lock(options.work / f"{run.name}.lock") as held:
        if held is None:
            raise Busy
        source = f"{run.row.source}-s{run.seed}" if run.row.source else run.name
        if not run.row.source:
            words = command(run.row, run.name, run.flags, folders, options.work)
            words += ["--threads", str(options.threads), "--workers", str(options.workers)]
            words += ["--accelerator", options.accelerator]
            log = options.work / f"{run.name}.log"
            with log.open("a") as output:
                done = subprocess.run(  # noqa: S603 - our own command
                    words,
                    cwd=ROOT,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    pass_fds=(held.fileno(),),
                    check=False,
                )
            if done.returncode:
                tail = "\n".join(log.read_text(errors="replace").splitlines()[-12:])
                raise RunFailed(f"exit status {done.returncode}; {log} ends\n{tail}")
        try:
            made = measure_run(
                run.row, run.seed, run.flags, options.work / source, folders[run.row.data]
            )
        except (OSError, ValueError) as error:
            raise RunFailed(f"trained, but not tested: {error}") from error
        made.write(options.work)


def make_all(
    runs: Sequence[Run], folders: Folders, options: argparse.Namespace, console: Console
) -> dict[str, str]:
    """Make the runs in order and return the reasons of those that failed, by name."""
    failed: dict[str, str] = {}
    busy: set[str] = set()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        bar = progress.add_task("runs", total=len(runs))
        for run in runs:
            progress.update(bar, description=run.name)
            seed = run.seed if run.row.source else FIRST_SEED
            needed = {f"{name}-s{seed}" for name in run.row.needs}
            try:
                if lost := sorted(needed & set(failed)):
                    raise RunFailed(f"needs {lost[0]}, which failed")  # noqa: TRY301
                if needed & busy:
                    raise Busy  # noqa: TRY301
                make(run, folders, options)
            except Busy:
                busy.add(run.name)
            except RunFailed as error:
                failed[run.name] = str(error)
                console.print(f"FAILED {run.name}: {error}", markup=False, highlight=False)
            progress.advance(bar)
    if busy:
        names = ", ".join(sorted(busy))
        console.print(f"left to another process that trains now: {names}", markup=False)
    return failed


def folders_of(options: argparse.Namespace) -> dict[str, list[str]]:
    """Return data folders by role, absolute; raises ValueError for one that is missing."""
    found = {}
    for role in ROLES:
        given: list[str] | None = getattr(options, role.replace("-", "_"))
        for name in given or ():
            if "://" not in name and not Path(name).is_dir():
                raise ValueError(f"--{role} {name}: no such folder")
        if given:
            found[role] = [name if "://" in name else str(Path(name).absolute()) for name in given]
    return found


def without_folders(
    runs: Sequence[Run], folders: Folders, options: argparse.Namespace
) -> dict[str, list[str]]:
    """Return the missing flags of runs whose folders are not given; ValueError if requested."""
    lacking: dict[str, list[str]] = {}
    for run in runs:
        roles = {run.row.data, run.row.clean or run.row.data} - set(folders)
        if roles:
            lacking[run.name] = [f"--{role}" for role in sorted(roles)]
    if lacking and (options.only or options.rows == ["inhouse"]):
        name, flags = next(iter(lacking.items()))
        raise ValueError(f"{name} needs {', '.join(flags)}")
    return lacking


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    made = argparse.ArgumentParser(
        prog="python -m train.experiments.table1",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        fromfile_prefix_chars="@",
        allow_abbrev=False,
    )
    rows = made.add_argument_group("rows")
    blocks = ["clean", "telephone", "inhouse"]
    rows.add_argument("--rows", nargs="+", choices=blocks, default=blocks, help="blocks (all)")
    rows.add_argument(
        "--only", nargs="+", metavar="ROW", help="ids of rows or patterns like 'ecapa-*'"
    )
    rows.add_argument("--ablations", action="store_true", help="also the ablations")
    for flag, seeds, text in (
        ("--seeds", [1, 2, 3], "of every row (1 2 3); rows that others build on have one, 1"),
        ("--ablation-seeds", [1], "of the ablations (1)"),
    ):
        rows.add_argument(flag, nargs="+", type=int, default=seeds, metavar="N", help=text)
    rows.add_argument("--dry-run", action="store_true", help="print what is missing, run nothing")
    places = made.add_argument_group("folders")
    work = Path("runs/table1")
    places.add_argument("--work", type=Path, default=work, help="runs, records (%(default)s)")
    for role, (default, text) in ROLES.items():
        shown = f"{text} ({default[0]})" if default else text
        places.add_argument(f"--{role}", nargs="+", default=default, metavar="DIR", help=shown)
    recipe = made.add_argument_group("recipe")
    for part, defaults in RECIPE.items():
        shown = " ".join(f"{key}={value}" for key, value in defaults.items())
        settings: dict[str, Any] = {"nargs": "+", "type": setting, "default": []}
        recipe.add_argument(f"--{part}", metavar="KEY=VALUE", help=f"over {shown}", **settings)
    machine = made.add_argument_group("machine")
    machine.add_argument("--threads", type=int, default=1, help="of the training (%(default)s)")
    machine.add_argument("--workers", type=int, default=0, help="loader processes (%(default)s)")
    machine.add_argument("--accelerator", choices=("auto", "cpu", "cuda"), default="auto")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the module's docstring lists the exit status."""
    options = parser().parse_args(argv)
    options.work = options.work.absolute()
    console = Console(stderr=True, soft_wrap=True)
    try:
        folders = folders_of(options)
        runs = missing_runs(chosen(options), options)
        lacking = without_folders(runs, folders, options)
    except (OSError, ValueError) as error:
        print(f"table1: {error}", file=sys.stderr)
        return 2
    for name, flags in lacking.items():
        console.print(f"SKIPPED {name}: no {', '.join(flags)}", markup=False, highlight=False)
    runs = [run for run in runs if run.name not in lacking]
    console.print(f"{len(runs)} runs to make")
    if options.dry_run:
        for run in runs:
            if not run.row.source:
                words = command(run.row, run.name, run.flags, folders, options.work)
                print(shlex.join(["python", *words[1:]]))
        return 0
    options.work.mkdir(parents=True, exist_ok=True)
    return 1 if make_all(runs, folders, options, console) else 0


if __name__ == "__main__":
    sys.exit(main())
