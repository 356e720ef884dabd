"""JSON label files and the split that a path names."""

from __future__ import annotations

import json
import re
from typing import Any

from train.corpora.archive import UnreadableFileError, read_bytes
from train.corpora.faults import Unusable
from train.corpora.tree import Entry
from train.corpora.values import text

_SPLITS = (
    (re.compile(r"(\d\.)?training\b|t[sl]_d\d+", re.IGNORECASE), "train"),
    (re.compile(r"(\d\.)?validation\b|v[sl]_d\d+", re.IGNORECASE), "test"),
)


def read_json(entry: Entry) -> dict[str, Any]:
    """The object in a label file, with or without byte order mark.

    Raises:
        Unusable: unreadable, not UTF-8, no JSON, or no object.
    """
    try:
        content = json.loads(read_bytes(entry.source).decode("utf-8-sig"))
    except UnreadableFileError as error:
        raise Unusable("label unreadable", str(error)) from error
    except UnicodeDecodeError as error:
        raise Unusable("label not UTF-8", f"byte {error.start}") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise Unusable("label not JSON", str(error)) from error
    if not isinstance(content, dict):
        raise Unusable("label not a JSON object", f"a {type(content).__name__}")
    return content


def section(content: dict[str, Any], name: str) -> dict[str, Any]:
    """A nested object; raises Unusable if it is not there."""
    inner = content.get(name)
    if not isinstance(inner, dict):
        raise Unusable("label incomplete", f"no object {name!r}")
    return inner


def items(content: dict[str, Any], name: str) -> list[Any]:
    """A nested list; raises Unusable if it is not there."""
    inner = content.get(name)
    if not isinstance(inner, list):
        raise Unusable("label incomplete", f"no list {name!r}")
    return inner


def seconds_of(value: object) -> float:
    """Duration in seconds by the label, 0 if it has none: the header decides anyway."""
    try:
        return max(float(text(value) or 0), 0.0)
    except ValueError:
        return 0.0


def split_of(entry: Entry) -> str:
    """Split that AI-Hub's folders name, empty if none.

    Validation is the test split: AI-Hub keeps its own test split to itself, and what training
    needs for itself is better taken from Training.
    """
    for part in entry.parts:
        for pattern, split in _SPLITS:
            if pattern.match(part):
                return split
    return ""
