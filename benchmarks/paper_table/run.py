"""Run what Table 1 lacks, one row after the other, and record each.

Each run holds a lock that its training process inherits: if this process is killed, the next one
does not begin the same run while the old training lives, and two of these commands on one work
folder share the rows between them.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from rich.console import Console

from paper_table.plan import CHECKPOINT, Records, Wanted, expected_seconds
from paper_table.recipe import Recipe, command, flags_of, run_name
from paper_table.records import Record, read_all, write
from paper_table.rows import FIRST_SEED

ROOT = Path(__file__).resolve().parents[2]
BEGUN = "table1.json"
"""In a run's folder: the flags that it was begun with."""
TAIL = 12
"""Lines of a failed run's log that are shown."""
POLL_SECONDS = 2.0
BUSY_SECONDS = 10.0

Train = Callable[[list[str], Path, IO[str]], int]
"""Command, its log, and the lock to hold -> exit status."""
Score = Callable[[Wanted, list[str], Path, Sequence[str]], Record]
"""Run, flags, folder of the checkpoint, test data -> record."""


class Busy(Exception):
    """Another process runs this."""


class Failed(Exception):
    """A run that came to nothing; the message is for people."""


@dataclass(frozen=True)
class Place:
    """Where things lie.

    Attributes:
        work: runs.
        records: their records.
        folders: data by role.
        machine: flags of the training that change no figure.
        adopt: take over checkpoints in ``work`` that this program did not begin.
        force: throw away those that were begun with other flags.
    """

    work: Path
    records: Path
    folders: Mapping[str, list[str]]
    machine: list[str] = field(default_factory=list)
    adopt: bool = False
    force: bool = False


class Training:
    """Runs a training process to its end and shows how far it is; ends it if we are ended."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def __call__(self, words: list[str], log: Path, lock: IO[str]) -> int:
        """Exit status of ``words``, whose last one is the run's folder."""
        began, epochs = time.monotonic(), Path(words[-1]) / "log.jsonl"
        with log.open("a") as written, self.console.status("begins") as shown:
            written.write(f"$ {' '.join(words)}\n")
            written.flush()
            child = subprocess.Popen(  # noqa: S603 - our own command
                words,
                cwd=ROOT,
                stdout=written,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                pass_fds=(lock.fileno(),),
            )
            try:
                while True:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        return child.wait(POLL_SECONDS)
                    done = len(epochs.read_text().splitlines()) if epochs.exists() else 0
                    taken = duration(time.monotonic() - began)
                    shown.update(f"{Path(words[-1]).name}: {done} epochs done, {taken}")
            finally:
                if child.poll() is None:
                    child.terminate()
                    child.wait()


def score_run(wanted: Wanted, flags: list[str], folder: Path, data: Sequence[str]) -> Record:
    """Test a finished run."""
    from paper_table.score import score  # noqa: PLC0415 - table and plan need no torch

    return score(wanted.row, wanted.seed, flags, folder, data)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[IO[str]]:
    """Hold a lock file; raises Busy if another process does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Busy from error
        yield lock


def claim(folder: Path, flags: list[str], place: Place) -> None:
    """Make sure that what a folder holds belongs to this run; raises Failed if it does not."""
    marker = folder / BEGUN
    begun = json.loads(marker.read_text())["flags"] if marker.exists() else None
    if (folder / CHECKPOINT).exists() and begun != flags and not (begun is None and place.adopt):
        why = "was not begun by this program" if begun is None else "was begun with other flags"
        if not place.force or folder.is_symlink():
            how = "--force throws it away" + ("" if begun else ", --adopt takes it over")
            raise Failed(f"{folder} holds a run that {why}: {how}")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    marker.write_text(json.dumps({"flags": flags}) + "\n")


def tail(log: Path, lines: int = TAIL) -> str:
    """Last lines of a log, as the terminal would have shown them."""
    if not log.exists():
        return ""
    text = log.read_text(errors="replace").replace("\r", "\n")
    return "\n".join([line for line in text.splitlines() if line.strip()][-lines:])


def make(wanted: Wanted, recipe: Recipe, place: Place, train: Train, score: Score) -> None:
    """Train one run, test and record it.

    Raises:
        Busy: another process runs it.
        Failed: training or test did not come to an end.
    """
    row, seed = wanted.row, wanted.seed
    flags = flags_of(row, seed, recipe)
    folder, log = place.work / wanted.name, place.work / f"{wanted.name}.log"
    with locked(place.work / f"{wanted.name}.lock") as lock:
        if row.source:
            folder = place.work / run_name(row.source, seed)
        else:
            claim(folder, flags, place)
            words = command(row, seed, recipe, place.folders, place.work, place.machine)
            status = train(words, log, lock)
            if status:
                raise Failed(f"exit status {status}; {log} ends\n{tail(log)}")
        if wanted.again:
            return  # only its checkpoint was wanted; the record stays as it is
        try:
            record = score(wanted, flags, folder, place.folders[row.data])
        except (OSError, ValueError) as error:
            raise Failed(f"trained, but not tested: {error}") from error
        write(record, place.records)


def duration(seconds: float) -> str:
    """As people say it."""
    minutes = round(seconds / 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min" if seconds >= 100 else f"{seconds:.0f} s"


def eta(left: Sequence[Wanted], recipe: Recipe, records: Records) -> str:
    """What the runs that are left will take, as far as earlier records tell."""
    each = [expected_seconds(wanted, recipe, records) for wanted in left]
    known = [seconds for seconds in each if seconds is not None]
    unknown = len(each) - len(known)
    if not sum(known):
        return f"{unknown} of unknown time" if unknown else "no training"
    more = f", and {unknown} of unknown time" if unknown else ""
    return f"about {duration(sum(known))} of training{more}"


def _blocked(wanted: Wanted, without: set[str]) -> str:
    """Name of a run that this one needs and that is among ``without``, or nothing."""
    seed = wanted.seed if wanted.row.source else FIRST_SEED
    return next((n for n in (run_name(r, seed) for r in wanted.row.needs) if n in without), "")


def run_all(
    due: Sequence[Wanted],
    recipe: Recipe,
    place: Place,
    console: Console,
    *,
    train: Train | None = None,
    score: Score = score_run,
    rest: float = BUSY_SECONDS,
) -> dict[str, str]:
    """Make the runs, as far as they can be made.

    Args:
        due: in an order in which each comes after what it needs.
        recipe: size and schedule.
        place: where.
        console: for progress.
        train: of one run; None starts its process.
        score: of one run.
        rest: seconds between two looks at what another process runs.

    Returns:
        Reasons by name of the runs that failed.
    """
    failed: dict[str, str] = {}
    waiting = list(due)
    while waiting:
        busy: list[Wanted] = []
        for number, wanted in enumerate(waiting):
            here = read_all(place.records)
            console.print(
                f"[{wanted.name}] {len(waiting) - number + len(busy)} to go: "
                f"{eta([*waiting[number:], *busy], recipe, here)}",
                markup=False,
            )
            if reason := _blocked(wanted, set(failed)):
                failed[wanted.name] = f"needs {reason}, which failed"
            elif _blocked(wanted, {other.name for other in busy}):
                busy.append(wanted)
            elif _finished_elsewhere(wanted, recipe, here):
                continue
            else:
                began = time.monotonic()
                try:
                    make(wanted, recipe, place, train or Training(console), score)
                    taken = duration(time.monotonic() - began)
                    console.print(f"[{wanted.name}] done in {taken}", markup=False)
                except Busy:
                    busy.append(wanted)
                except Failed as error:
                    failed[wanted.name] = str(error)
            if wanted.name in failed:
                console.print(f"[{wanted.name}] failed: {failed[wanted.name]}", markup=False)
        if len(busy) == len(waiting):
            names = ", ".join(wanted.name for wanted in busy)
            console.print(f"another process runs {names}: waiting", markup=False)
            time.sleep(rest)
        waiting = busy
    return failed


def _finished_elsewhere(wanted: Wanted, recipe: Recipe, records: Records) -> bool:
    """Whether another process made it since the plan."""
    record = records.get((wanted.row.id, wanted.seed))
    flags = flags_of(wanted.row, wanted.seed, recipe)
    return record is not None and record.flags == flags and not wanted.again
