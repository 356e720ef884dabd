"""Generate the reference tables of the documentation from the code.

A page names a table by a comment, ``<!-- generated: settings -->``. The build replaces the comment
with the table and fails if a table is incomplete, so that no page can describe an older version.
MkDocs calls :func:`on_page_markdown`; ``python docs/hooks/reference.py NAME`` prints one table.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from annotated_types import Ge, Gt, Le, Lt

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "streamer"
EXPLANATIONS = ROOT / "docs" / "reference" / "log-events.toml"
# Where the described classes are; the only import paths of this script.
SETTINGS = ("streamer.settings", "ServerSettings")
METRICS = ("streamer.observability.metrics", "Metrics")
ERRORS = ("streamer.errors", "CallError")
MARKER = re.compile(r"<!-- generated: ([a-z-]+) -->")
PREFIX = "VOICECOHORT_"


class IncompleteReference(ValueError):
    """The code has something that the documentation source does not explain, or the reverse."""


@dataclass
class LogEvent:
    """One event of the log, as the code writes it.

    Attributes:
        levels: names of the log levels.
        fields: keys beside event, level and timestamp.
    """

    levels: set[str] = field(default_factory=set)
    fields: set[str] = field(default_factory=set)


def load(place: tuple[str, str]) -> Any:  # noqa: ANN401 - a class of the server
    """Import a class by module and name."""
    module, name = place
    return getattr(importlib.import_module(module), name)


def _table(headings: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; a ``|`` inside a cell is escaped."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(["| " + " | ".join(headings) + " |", "|---" * len(headings) + "|", *lines])


def _calls() -> Iterator[tuple[Path, ast.Call]]:
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                yield file, node


def flags() -> list[str]:
    """Every flag of the server, in the order of its settings."""
    return [f"--{name.replace('_', '-')}" for name in load(SETTINGS).model_fields]


def _range(metadata: list[Any]) -> str:
    """The valid values of a number, for example ``> 0, <= 60``."""
    signs = {Ge: ">= {0.ge}", Gt: "> {0.gt}", Le: "<= {0.le}", Lt: "< {0.lt}"}
    return ", ".join(signs[type(bound)].format(bound) for bound in metadata if type(bound) in signs)


def _type(annotation: Any) -> str:  # noqa: ANN401 - what an annotation can be
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    text = re.sub(r"(?:typing|pathlib)\.|Annotated\[(\w+), .*\]", r"\1", text)
    return text.replace("Literal", "one of ").replace(" | None", "")


def settings_table() -> str:
    """Flags of the server with environment variable, type, range and default."""
    rows = []
    for name, info in load(SETTINGS).model_fields.items():
        flag = f"`--{name.replace('_', '-')}`<br>`{PREFIX}{name.upper()}`"
        kind = f"{_type(info.annotation)} {_range(info.metadata)}".strip()
        default = "none" if info.default in {None, ""} else f"`{info.default}`"
        if not info.description:
            raise IncompleteReference(f"setting {name}: no docstring")
        rows.append([flag, kind, default, " ".join(info.description.split())])
    return _table(["flag and variable", "type", "default", "meaning"], rows)


def metric_families() -> list[Any]:
    """The metric families of a new server that are its own, sorted by name."""
    families = load(METRICS)().registry.collect()
    ours = [family for family in families if family.name.startswith("voicecohort_")]
    return sorted(ours, key=lambda family: str(family.name))


def exported_name(family: Any) -> str:  # noqa: ANN401 - a metric family
    """The name that a query uses: counters end in ``_total``, information in ``_info``."""
    suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
    return f"{family.name}{suffix}"


def _labels() -> dict[str, tuple[str, ...]]:
    """Label names by name of the metric; the registry's samples lack those without a value."""
    registry = load(METRICS)().registry
    collectors = registry._collector_to_names
    return {
        name: tuple(getattr(collector, "_labelnames", ()))
        for collector, names in collectors.items()
        for name in names
    }


def metrics_table() -> str:
    """Metrics with type, labels and meaning."""
    labels = _labels()
    rows = [
        [
            f"`{exported_name(family)}`",
            family.type,
            ", ".join(f"`{label}`" for label in labels.get(family.name, ())),
            family.documentation,
        ]
        for family in metric_families()
    ]
    return _table(["metric", "type", "labels", "meaning"], rows)


def log_events() -> dict[str, LogEvent]:
    """Every event that ``log.<level>("event", ...)`` writes in the server, by name."""
    found: dict[str, LogEvent] = defaultdict(LogEvent)
    for file, call in _calls():
        method = call.func
        if not (
            isinstance(method, ast.Attribute)
            and isinstance(method.value, ast.Name)
            and method.value.id == "log"
        ):
            continue
        events = [node.value for node in ast.walk(call.args[0]) if isinstance(node, ast.Constant)]
        if not events:
            raise IncompleteReference(f"{file}:{call.lineno}: the event is not a literal")
        for event in events:
            entry = found[str(event)]
            entry.levels.add({"exception": "error"}.get(method.attr, method.attr))
            entry.fields |= {word.arg for word in call.keywords if word.arg}
            if any(word.arg is None for word in call.keywords):  # **caller: one of the two
                entry.fields |= {"identity", "peer"}
    return dict(found)


def log_events_table() -> str:
    """Log events with level, fields and explanation.

    Raises:
        IncompleteReference: an event has no explanation, or an explanation no event.
    """
    explanations: dict[str, str] = tomllib.loads(EXPLANATIONS.read_text())
    events = log_events()
    missing, surplus = sorted(events.keys() - explanations), sorted(explanations.keys() - events)
    if missing or surplus:
        raise IncompleteReference(
            f"{EXPLANATIONS.name}: no explanation of {missing}; explains {surplus}, which the code "
            "does not log"
        )
    rows = [
        [
            f"`{event}`",
            ", ".join(sorted(events[event].levels)),
            ", ".join(f"`{name}`" for name in sorted(events[event].fields)),
            text,
        ]
        for event, text in explanations.items()
    ]
    return _table(["event", "level", "fields", "when"], rows)


def reason_codes() -> dict[str, set[str]]:
    """Reason codes by name of the error class: its own, and those given where it is raised."""
    base = load(ERRORS)
    module = sys.modules[base.__module__]
    classes: dict[str, Any] = {
        name: kind
        for name, kind in vars(module).items()
        if inspect.isclass(kind) and issubclass(kind, base) and kind is not base
    }
    codes: dict[str, set[str]] = {name: set() for name in classes}
    for _, call in _calls():
        name = getattr(call.func, "id", getattr(call.func, "attr", ""))
        if name not in classes:
            continue
        parameters = list(inspect.signature(classes[name].__init__).parameters)[1:]
        given = dict(zip(parameters, call.args, strict=False))
        given |= {word.arg: word.value for word in call.keywords if word.arg}
        if isinstance(reason := given.get("reason"), ast.Constant):
            codes[name].add(str(reason.value))
        else:
            codes[name].add(classes[name].reason)
    return codes


def errors_table() -> str:
    """Errors of a call with status, reason codes and behaviour."""
    base = load(ERRORS)
    module = sys.modules[base.__module__]
    rows = []
    for name, codes in reason_codes().items():
        kind = getattr(module, name)
        first = (inspect.getdoc(kind) or "").split("\n\n")[0]
        if not first:
            raise IncompleteReference(f"error {name}: no docstring")
        reasons = ", ".join(f"`{code}`" for code in sorted(codes or {kind.reason}))
        finals = "yes" if kind.finals else "no"
        rows.append([f"`{kind.status}`", reasons, finals, " ".join(first.split())])
    order = sorted(rows, key=lambda row: (row[0], row[1]))
    return _table(["status", "reason codes", "final predictions first", "cause"], order)


TABLES: dict[str, Callable[[], str]] = {
    "settings": settings_table,
    "metrics": metrics_table,
    "log-events": log_events_table,
    "errors": errors_table,
}


def render(markdown: str) -> str:
    """Replace every marker of a page with its table.

    Raises:
        KeyError: a marker names a table that does not exist.
        IncompleteReference: see the tables.
    """
    return MARKER.sub(lambda match: TABLES[match[1]](), markdown)


def on_page_markdown(markdown: str, **_: object) -> str:
    """Fill in the generated tables; MkDocs calls this for every page."""
    return render(markdown)


if __name__ == "__main__":
    print(TABLES[sys.argv[1]]())  # noqa: T201 - the output of the command
