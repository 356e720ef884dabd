"""The paper's Table 1 on any prepared corpora: train every row in several seeds, test, compare.

    python benchmarks/table1.py plan                                   # what is missing
    python benchmarks/table1.py run --rows telephone --seeds 1 2 3     # make it
    python benchmarks/table1.py table --markdown table1.md --picture table1.png

Each row is one process of train.pretrain or train.distill, with the flags of its recipe; a
finished one leaves a record (``paper_table/records.py``), and what has a record of the same flags
is not run again. All may be killed and run again; two at once share the rows between them.

Exit status: 0, 1 if a row failed, 2 for arguments that cannot be used.
"""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from paper_table.plan import (
    Records,
    Wanted,
    chosen,
    expected_seconds,
    survey,
    todo,
    without_folders,
)
from paper_table.recipe import add_recipe, command, recipe_of
from paper_table.records import read_all
from paper_table.rows import ROWS
from paper_table.run import ROOT, Place, duration, eta, run_all
from rich.console import Console

EPILOG = """\
Data: prepare corpora (python -m train.prepare), shard them (train.shard), send the telephone rows
through the telephone once (train.simulate_calls), see train/README.md. Clean folders also hold the
clean twins that teachers hear. Telephone recordings of one's own may be --telephone as they are.

In-house block: --inhouse and --inhouse-clean are the smaller corpus, --rest and --rest-clean
everything else; the rows are fine-tuned from a telephone base that never heard the former.

Examples:
  python benchmarks/table1.py run --only ecapa-base ecapa-ch --seeds 1
  python benchmarks/table1.py run --ablations --ablation-seeds 1 2
  python benchmarks/table1.py run @gpu.args --threads 8     gpu.args: one word of flags a line
  python benchmarks/table1.py table --json table1.json
"""


class Unusable(Exception):
    """Arguments or records that cannot be used; one line, says which."""


def _add_choice(group: argparse._ArgumentGroup) -> None:
    """Flags that say which rows."""
    group.add_argument(
        "--rows",
        nargs="+",
        choices=("clean", "telephone", "inhouse"),
        help="blocks of the table (all three)",
    )
    group.add_argument(
        "--only",
        nargs="+",
        metavar="ROW",
        help="ids of rows or patterns like 'ecapa-*', of any block; plan lists them",
    )
    group.add_argument(
        "--ablations",
        action="store_true",
        help="also the ablations: telephone, ECAPA, each against its reference",
    )


def _add_seeds(group: argparse._ArgumentGroup) -> None:
    """Flags that say which seeds."""
    for flag, default, what in (
        ("--seeds", [1, 2, 3], "of every row (1 2 3); rows that others build on have one, 1"),
        ("--ablation-seeds", [1], "of the ablations (1)"),
    ):
        group.add_argument(flag, nargs="+", type=int, default=default, metavar="N", help=what)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python benchmarks/table1.py",
        description=(__doc__ or "").partition("Exit status")[0],
        epilog=EPILOG + "\nExit status:" + (__doc__ or "").partition("Exit status:")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        fromfile_prefix_chars="@",
        allow_abbrev=False,
    )
    shared = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    _add_seeds(shared.add_argument_group("seeds"))
    places = shared.add_argument_group("folders")
    places.add_argument(
        "--records",
        type=Path,
        default=Path("benchmarks/results/table1"),
        help="of finished runs (%(default)s)",
    )
    places.add_argument(
        "--work", type=Path, default=Path("runs/table1"), help="checkpoints, logs (%(default)s)"
    )
    for role, default, what in (
        ("clean", ["runs/shards"], "clean speech, 16 kHz"),
        ("telephone", ["runs/calls"], "the same as calls (train.simulate_calls)"),
        ("inhouse", None, "calls of the smaller corpus"),
        ("inhouse-clean", None, "the same, clean"),
        ("rest", None, "calls of everything but that corpus"),
        ("rest-clean", None, "the same, clean"),
    ):
        shown = f"{what} ({default[0]})" if default else what
        places.add_argument(f"--{role}", nargs="+", default=default, metavar="DIR", help=shown)
    add_recipe(shared)
    verbs = made.add_subparsers(dest="verb", required=True, metavar="run|table|plan")
    run = verbs.add_parser("run", parents=[shared], help="train and record what is missing")
    _add_choice(run.add_argument_group("rows"))
    run.add_argument("--force", action="store_true", help="also again what has other flags")
    run.add_argument(
        "--adopt",
        action="store_true",
        help="take over checkpoints under --work that this program did not begin (a folder or link "
        "ROW-sSEED); you vouch for their flags, and that nothing trains them now",
    )
    run.add_argument("--threads", type=int, default=1, help="of the training (%(default)s)")
    run.add_argument("--workers", type=int, default=0, help="loader processes (%(default)s)")
    run.add_argument("--accelerator", choices=("auto", "cpu", "cuda"), default="auto")
    plan = verbs.add_parser("plan", parents=[shared], help="print what is missing, run nothing")
    _add_choice(plan.add_argument_group("rows"))
    plan.add_argument("--commands", action="store_true", help="print the training commands too")
    table = verbs.add_parser("table", parents=[shared], help="make the table from the records")
    for name, what in (
        ("json", "all figures"),
        ("markdown", "the tables as a page"),
        ("picture", "a PNG of both F1 scores, ours beside the paper's"),
    ):
        table.add_argument(f"--{name}", type=Path, metavar="OUT", help=f"write {what}")
    return made


def folders_of(options: argparse.Namespace) -> dict[str, list[str]]:
    """Data by role, absolute; raises Unusable for a folder that is not there."""
    found = {}
    for role in ("clean", "telephone", "inhouse", "inhouse-clean", "rest", "rest-clean"):
        given: list[str] | None = getattr(options, role.replace("-", "_"))
        for name in given or ():
            if "://" not in name and not Path(name).is_dir():
                raise Unusable(f"--{role} {name}: no such folder")
        if given:
            found[role] = [name if "://" in name else str(Path(name).absolute()) for name in given]
    return found


def identities(records: Records, folders: Mapping[str, list[str]]) -> dict[str, str]:
    """Identity of the data of those roles that there are records of."""
    roles = {ROWS[name].data for name, _ in records if name in ROWS} & set(folders)
    if not roles:
        return {}
    from paper_table.data import identity  # noqa: PLC0415 - takes two seconds to import

    return {role: identity(folders[role]) for role in sorted(roles)}


def show_plan(
    listed: Sequence[Wanted], due: Sequence[Wanted], options: argparse.Namespace, console: Console
) -> None:
    """What there is, what is kept, what is to be made and how long it takes."""
    recipe, records = recipe_of(options), read_all(options.records)
    done = sum(wanted.state == "done" for wanted in listed)
    console.print(f"{done} of {len(listed)} runs have records; to make: {len(due)}")
    names = {wanted.name for wanted in due}
    for wanted in listed:
        if wanted.state == "other flags" and wanted.name not in names:
            kept = "; ".join(wanted.differing)
            console.print(f"  kept  {wanted.name}: {kept} (--force runs it again)", markup=False)
    for wanted in due:
        seconds = expected_seconds(wanted, recipe, records)
        time = "?" if seconds is None else duration(seconds)
        why = " (checkpoint only, for rows that need it)" if wanted.again else ""
        console.print(f"  {time:>12}  {wanted.name}{why}", markup=False, highlight=False)
    console.print(f"in all: {eta(due, recipe, records)}")


def run_or_plan(options: argparse.Namespace, console: Console) -> int:
    """The verbs run and plan."""
    recipe = recipe_of(options)
    rows = chosen(options.rows, options.only, ablations=options.ablations)
    lacking: dict[str, list[str]] = without_folders(rows, folders_of(options))
    if lacking and (options.only or "inhouse" in (options.rows or ())):
        name, roles = next(iter(lacking.items()))
        raise Unusable(f"{name} needs " + ", ".join(f"--{role}" for role in roles))
    for name, roles in lacking.items():
        needed = ", ".join(f"--{role}" for role in roles)
        console.print(f"SKIPPED {name}: no {needed}", style="bold red", highlight=False)
    rows = [row for row in rows if row.id not in lacking]
    records = read_all(options.records)
    data = identities(records, folders_of(options))
    listed = survey(
        rows,
        recipe,
        records,
        seeds=options.seeds,
        ablation_seeds=options.ablation_seeds,
        data=data,
    )
    force = options.verb == "run" and options.force
    due = todo(listed, recipe, records, options.work.absolute(), force=force, data=data)
    show_plan(listed, due, options, console)
    if options.verb == "plan":
        for wanted in due if options.commands else ():
            if not wanted.row.source:
                words = command(
                    wanted.row, wanted.seed, recipe, folders_of(options), options.work, []
                )
                print(shlex.join(["python", *words[1:]]))
        return 0
    place = Place(
        work=options.work.absolute(),
        records=options.records.absolute(),
        folders=folders_of(options),
        machine=[
            *("--threads", str(options.threads), "--workers", str(options.workers)),
            *("--accelerator", options.accelerator),
        ],
        adopt=options.adopt,
        force=options.force,
    )
    signal.signal(signal.SIGTERM, _ended)  # so that a training process is ended with us
    failed = run_all(due, recipe, place, console)
    for name, reason in failed.items():
        console.print(f"FAILED {name}: {reason}", markup=False, highlight=False)
    return 1 if failed else 0


def render(options: argparse.Namespace) -> int:
    """The verb table."""
    from paper_table.page import Page  # noqa: PLC0415 - run needs no tables
    from paper_table.picture import picture  # noqa: PLC0415

    for name in ("json", "markdown", "picture"):
        path: Path | None = getattr(options, name)
        if path is not None and not path.parent.is_dir():
            raise Unusable(f"--{name} {path}: no such folder")
    page = Page.of(
        read_all(options.records),
        recipe_of(options),
        seeds=options.seeds,
        ablation_seeds=options.ablation_seeds,
    )
    if options.json:
        text = json.dumps(page.plain(), indent=1, allow_nan=False, ensure_ascii=False)
        options.json.write_text(text + "\n", encoding="utf-8")
    if options.markdown:
        options.markdown.write_text(page.markdown(), encoding="utf-8")
    if options.picture:
        picture(page.lines, options.picture)
    page.show(Console())
    return 0


def _ended(*_: object) -> NoReturn:
    sys.exit(143)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see the module's first lines for the exit status."""
    options = parser().parse_args(argv)
    console = Console(stderr=True, soft_wrap=True)
    try:
        if options.verb == "table":
            return render(options)
        return run_or_plan(options, console)
    except (Unusable, ValueError, OSError) as error:
        print(f"table1: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
