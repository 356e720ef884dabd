"""The scripts under docs/hooks as modules: they belong to no package."""

import functools
import importlib.util
import sys
from pathlib import Path

import pytest

HOOKS = Path(__file__).resolve().parents[2] / "docs" / "hooks"


@functools.cache
def load(name):
    """Import a script once."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", HOOKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def load_hook():
    """Import a script of docs/hooks: load_hook("reference")."""
    return load
