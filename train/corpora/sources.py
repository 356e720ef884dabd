"""The corpora that can be prepared, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from train.corpora import aihub_free, aihub_ltv, commonvoice, tsv
from train.corpora.utterance import Rejected, Utterance

Reader = Callable[[Path], Iterator[Utterance | Rejected]]

SOURCES: dict[str, Reader] = {
    "aihub-fcvg": partial(aihub_free.read, corpus="aihub-fcvg"),
    "aihub-fcve": partial(aihub_free.read, corpus="aihub-fcve"),
    "aihub-ltv": aihub_ltv.read,
    "commonvoice": commonvoice.read,
    "tsv": tsv.read,
}
"""Name -> what reads it. A reader raises ValueError where there is nothing to read at all."""
