"""The targets by name: each a module with ``run(data: bytes) -> None`` and ``seeds()``."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import NamedTuple

NAMES = {
    "codec": 1024,
    "sound_file": 4096,
    "stream": 512,
    "stream_raw": 4096,
    "wire": 8192,
    "trunk": 8192,
    "secrets": 6000,
    "checkpoint": 8192,
}
"""Longest input of each, in bytes: longer ones cost more and show nothing new."""
LONGEST = 4096
"""Of any other."""


class Target(NamedTuple):
    """One target.

    Attributes:
        run: one input; raises nothing unless there is a defect.
        seeds: inputs to begin with, made in code.
        longest: input in bytes.
    """

    run: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]
    longest: int


def load(name: str) -> Target:
    """Import a target; what it tests is imported with it."""
    module = importlib.import_module(f"target_{name}")
    return Target(module.run, module.seeds, NAMES.get(name, LONGEST))
