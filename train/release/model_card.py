"""Make the model card: fill the figures of a template from a model file and its measurements.

    python -m train.release.model_card --out MODEL_CARD.md

A person writes the prose in ``model_card_template.md``. In it ``{{table NAME}}`` is a table of
``card_tables.py``, and ``{{SOURCE/KEY/KEY}}`` a value of ``model`` (the metadata of the ONNX
file), ``accuracy``, ``per_speaker`` or ``probe``, with its interval if it has one; ``:1`` behind it
asks for one decimal, ``:%`` for per cent. The first line of the template names the model that the
prose describes: for another one the command stops, until a person has reviewed the prose.

Exit status: 0; 2 if a file cannot be used, or measures another model.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from model.export import METADATA_KEY
from train.evaluation.tables import ranged
from train.release.card_tables import TABLES, TEXT_TABLES, Sources

RESULTS = Path("benchmarks/results")
FILES = {"accuracy": "accuracy", "per_speaker": "accuracy_per_speaker", "probe": "probe_test"}
TEMPLATE = Path(__file__).with_name("model_card_template.md")
_PLACEHOLDER = re.compile(r"\{\{([^{}]+)\}\}")
_REVIEWED = re.compile(r"<!-- describes: (\S+) -->\n")
_MACHINE_PATH = re.compile(r"(?<![\w.:/<])(?:~|[A-Za-z]:\\|/)[\w.-]*/[\w./-]*")


class UnusableInput(Exception):
    """A file from which no card can be made; the message is one line."""


def read_model(path: Path) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Read a model and its metadata; raises UnusableInput if it is none of ours."""
    try:
        model = onnx.load(path)
    except (OSError, DecodeError) as error:
        text = error.strerror if isinstance(error, OSError) else "not an ONNX file"
        raise UnusableInput(f"--model {path}: {text}") from error
    found = next((p.value for p in model.metadata_props if p.key == METADATA_KEY), None)
    if found is None:
        raise UnusableInput(f"--model {path}: no metadata {METADATA_KEY!r}")
    return model, json.loads(found)


def read_sources(path: Path, results: Path) -> Sources:
    """Read model and results; raises UnusableInput if they do not belong together."""
    model, metadata = read_model(path)
    values: dict[str, Any] = {"model": metadata}
    known = {metadata["model_id"]}
    quantised = path.with_name(f"{path.stem}-int8{path.suffix}")
    if quantised.is_file():
        other = read_model(quantised)[1]
        if other["provenance"].get("quantised", {}).get("from") == metadata["model_id"]:
            known.add(other["model_id"])
    paths = {"model": path} | {name: results / f"{file}.json" for name, file in FILES.items()}
    for name in FILES:
        try:
            found = json.loads(paths[name].read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            text = error.strerror if isinstance(error, OSError) else f"not JSON: {error}"
            raise UnusableInput(f"{paths[name]}: {text}") from error
        if name != "probe" and found.get("model") not in known:
            measured = f"measured {found.get('model')}, not {' or '.join(sorted(known))}"
            raise UnusableInput(f"{paths[name]}: {measured}")
        if name != "probe" and found["per_speaker"] != (name == "per_speaker"):
            raise UnusableInput(f"{paths[name]}: per_speaker is {found['per_speaker']}")
        values[name] = found
    trained = (onnx.TensorProto.FLOAT, onnx.TensorProto.INT8, onnx.TensorProto.FLOAT16)
    digests = {
        name: (file.name, hashlib.sha256(file.read_bytes()).hexdigest()[:12])
        for name, file in paths.items()
    }
    parameters = [t for t in model.graph.initializer if t.data_type in trained]
    count = sum(int(np.prod(t.dims)) for t in parameters)
    return Sources(values, digests, count, path.stat().st_size)


def value_at(values: Mapping[str, Any], reference: str) -> str:
    """Format the value that a placeholder refers to; raises UnusableInput if there is none."""
    path, _, form = reference.partition(":")
    keys = path.split("/")
    at: Any = values
    parent: Any = {}
    try:
        for key in keys:
            parent, at = at, at[int(key)] if isinstance(at, list) else at[key]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise UnusableInput(f"template: {{{{{reference}}}}}: no {key!r}") from error
    if isinstance(at, dict | list | None):
        raise UnusableInput(f"template: {{{{{reference}}}}} is no figure and no text")
    if form == "%":
        return f"{at:.0%}"
    if isinstance(at, float) or form:
        interval = parent.get("interval") if isinstance(parent, dict) else None
        if isinstance(interval, dict):
            interval = interval.get(keys[-1])
        return ranged(at, interval, int(form or 3))
    return f"{at:,}" if isinstance(at, int) and not isinstance(at, bool) else str(at)


def fill(template: str, sources: Sources) -> str:
    """Fill a template; UnusableInput for another model, an unknown name or a local path."""
    reviewed = _REVIEWED.match(template)
    model = sources.values["model"]["model_id"]
    if reviewed is None or reviewed.group(1) != model:
        described = reviewed.group(1) if reviewed else "no model"
        raise UnusableInput(f"template describes {described}: review its prose for {model}")

    def filled(found: re.Match[str]) -> str:
        kind, _, name = found.group(1).partition(" ")
        if kind != "table":
            return value_at(sources.values, found.group(1))
        if name not in TABLES:
            raise UnusableInput(f"template: no table {name!r}; there are {', '.join(TABLES)}")
        align: Any = "left" if name in TEXT_TABLES else "right"
        return TABLES[name](sources).markdown(align=align)

    page = _PLACEHOLDER.sub(filled, template[reviewed.end() :])
    leaked = _MACHINE_PATH.search(page)
    if leaked:
        raise UnusableInput(f"a path of this machine would be published: {leaked.group()}")
    return page


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the module's docstring lists the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m train.release.model_card",
        description=__doc__,
        epilog="The measurements come from\n"
        "  python benchmarks/accuracy.py --manifest M.tsv --split test --json accuracy.json\n"
        "  python benchmarks/accuracy.py ... --per-speaker --json accuracy_per_speaker.json\n"
        "  python -m train.probe --data runs/shards --split test --student runs/x --json\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", type=Path, required=True, help="float32 ONNX file")
    files = ", ".join(f"{file}.json" for file in FILES.values())
    text = f"folder of {files} (%(default)s)"
    parser.add_argument("--results", type=Path, default=RESULTS, help=text)
    parser.add_argument("--out", type=Path, required=True, metavar="CARD.md", help="card to write")
    options = parser.parse_args(argv)
    try:
        sources = read_sources(options.model, options.results)
        page = fill(TEMPLATE.read_text(encoding="utf-8"), sources)
        options.out.write_text(page, encoding="utf-8")
    except (UnusableInput, OSError) as error:
        print(f"model_card: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
