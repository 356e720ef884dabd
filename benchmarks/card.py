"""The model card of a student, from its file and from what was measured with it.

Nothing in the card is typed by hand but what the student is for, what it is not for and the law:
figures, and the sentences that judge them, follow from the files named on the command line. A
figure of another student is refused.

Exit status: 0; 2 for files of which no card can be made.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from model_card import about, results
from model_card.findings import findings, weakest_cells
from model_card.inputs import Inputs, Unusable, read_inputs
from model_card.pictures import draw
from model_card.text import INTENDED, LAW, NOT_FOR, PROTECTION

ROLES = ("model", "accuracy", "per-speaker", "probe", "clean", "voices", "cost")
_PLACE = re.compile(r"(?<![\w.:/<])(?:~|[A-Za-z]:\\|/)[\w.-]*/[\w./-]*")
"""A path that begins at the root or at home: no such thing belongs in a card."""

INTRODUCTION = """\
It hears a telephone call and says, while the caller is still talking, how likely the voice is one
that corpora label female or male, and of which age band. Use it for figures about many calls. Do
not use it to decide about a person.

This card is generated: every figure comes from the files listed at its end."""

DESCRIPTIONS = {
    "recall": "Recall of gender and of age group, by gender and age band, with intervals",
    "speech": "Accuracy by speech heard",
    "calibration": "Reliability diagrams of all tasks, with intervals",
    "corpus": "How well the corpus is told from the embedding within each age band",
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python benchmarks/card.py",
        description="Write the model card of a student from its file and its measurements.",
        epilog="Where the files come from:\n"
        "  python benchmarks/accuracy.py --manifest M.tsv --split test --json accuracy.json\n"
        "  python benchmarks/accuracy.py --manifest M.tsv --split test --per-speaker \\\n"
        "      --json per_speaker.json\n"
        "  python -m train.probe --data runs/shards --split test --student runs/x \\\n"
        "      --json > probe.json\n"
        "  python benchmarks/implausible.py --manifest M.tsv --split test --json voices.json\n"
        "  python benchmarks/throughput.py --json throughput.json\n"
        "\nExample:\n"
        "  python benchmarks/card.py --model streamer/models/student.onnx \\\n"
        "      --accuracy accuracy.json --per-speaker per_speaker.json --probe probe.json \\\n"
        "      --cost throughput.json --out MODEL_CARD.md --pictures benchmarks/results\n"
        "\nWhat is optional and not given, the card says is missing. Figures of another student\n"
        "than --model (or its 8-bit form NAME-int8.onnx beside it) are refused; the probe and\n"
        "the cost do not name theirs, so give those that belong to it.\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for role, needed, text in (
        ("model", True, "ONNX file of the student"),
        ("accuracy", True, "accuracy.py --json, a call per utterance"),
        ("per-speaker", False, "accuracy.py --per-speaker --json"),
        ("probe", False, "train.probe --json: can the corpus be told?"),
        (
            "clean",
            False,
            "accuracy.py --json on another manifest of the split, say without doubted labels; "
            "its headline figures stand beside the others",
        ),
        ("voices", False, "implausible.py --json: is a gap between genders one of pitch?"),
        ("cost", False, "throughput.py --json: what serving it costs"),
    ):
        made.add_argument(f"--{role}", type=Path, required=needed, metavar="FILE", help=text)
    made.add_argument("--out", type=Path, required=True, metavar="CARD.md", help="card to write")
    made.add_argument(
        "--pictures",
        type=Path,
        metavar="FOLDER",
        help="folder for the card's pictures (card_*.png), in or below that of the card; without "
        "it the card has none",
    )
    return made


def picture(name: str, links: dict[str, str]) -> str:
    """A picture in Markdown, or nothing where it was not drawn."""
    return f"![{DESCRIPTIONS[name]}]({links[name]})" if name in links else ""


def compose(inputs: Inputs, links: dict[str, str]) -> str:
    """The card.

    Args:
        inputs: files read.
        links: where its pictures are, by name, relative to the card.
    """

    def shown(name: str, text: Callable[[Inputs], str]) -> str:
        return "\n\n".join(filter(None, (text(inputs), picture(name, links))))

    worst = weakest_cells(inputs.single)
    failures = "\n".join(f"- {sentence}" for sentence in findings(inputs))
    sections = (
        ("In short", results.in_short(inputs) + "\n\n" + results.measured_on(inputs)),
        ("Where it fails, and for whom", shown("recall", lambda _: failures)),
        ("What it is", about.what_it_is(inputs)),
        ("What it is for", INTENDED),
        ("What it is not for", NOT_FOR),
        ("The law", LAW + "\n\n" + PROTECTION),
        ("How good it is, class by class", results.classes(inputs)),
        ("Women and men", results.genders(inputs)),
        ("By gender and age band", f"{results.cells(inputs)}\n\n{results.block(worst)}"),
        ("By speech heard", shown("speech", results.by_speech)),
        ("By corpus", results.by_part(inputs, "per_corpus")),
        ("By language", results.by_part(inputs, "per_language")),
        ("By gender, age band, corpus and language", results.all_cells(inputs)),
        ("When it decides", results.abstaining(inputs)),
        ("Can its confidence be believed?", shown("calibration", results.confidences)),
        ("Has it learned the corpus instead of the age?", shown("corpus", results.corpus_probe)),
        ("On other labels of the same split", results.clean(inputs)),
        ("What it was trained on", about.data(inputs)),
        ("How it was trained", about.training(inputs)),
        ("What the data cannot show", about.limits(inputs)),
        ("How this card was made", _sources(inputs)),
    )
    head = f"# Model card: `{inputs.model.id}`\n\n{INTRODUCTION}"
    page = "\n\n".join([head, *(f"## {title}\n\n{text}" for title, text in sections)]) + "\n"
    leaked = _PLACE.search(page)
    if leaked:
        raise Unusable(f"a path of this machine would stand in the card: {leaked.group()}")
    return page


def _sources(inputs: Inputs) -> str:
    lines = ["| given as | file | SHA-256 begins |", "| --- | --- | --- |"]
    lines += [f"| `--{one.role}` | `{one.name}` | `{one.digest}` |" for one in inputs.sources]
    missing = [role for role in ROLES if role not in {one.role for one in inputs.sources}]
    text = "By `python benchmarks/card.py` from\n\n" + "\n".join(lines)
    if missing:
        text += f"\n\nNot given: {', '.join(f'`--{role}`' for role in missing)}."
    if inputs.probe is not None or inputs.cost is not None:
        text += "\n\nThe files of probe and cost do not name the student that they measured."
    return text


def _base(out: Path, pictures: Path | None) -> Path:
    """Where the pictures are, seen from the card; raises Unusable where there can be none."""
    home = out.parent.resolve()
    if not home.is_dir():
        raise Unusable(f"--out {out}: no such folder")
    if pictures is None:
        return Path()
    if not pictures.is_dir():
        raise Unusable(f"--pictures {pictures}: no such folder")
    if not pictures.resolve().is_relative_to(home):
        raise Unusable(f"--pictures {pictures}: not in the folder of the card")
    return pictures.resolve().relative_to(home)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see the module's first lines for the exit status."""
    arguments = parser().parse_args(argv)
    out: Path = arguments.out
    pictures: Path | None = arguments.pictures
    try:
        base = _base(out, pictures)
        inputs = read_inputs({role: getattr(arguments, role.replace("-", "_")) for role in ROLES})
        drawn = {} if pictures is None else draw(inputs, pictures)
        page = compose(inputs, {n: (base / path.name).as_posix() for n, path in drawn.items()})
    except Unusable as error:
        print(error, file=sys.stderr)
        return 2
    out.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
