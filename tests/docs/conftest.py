"""The scripts under docs/hooks as modules: they belong to no package."""

import importlib.util
import sys
from pathlib import Path

import pytest

HOOKS = Path(__file__).resolve().parents[2] / "docs" / "hooks"


@pytest.fixture(scope="session")
def load_hook():
    """Import a script of docs/hooks: load_hook("reference")."""
    loaded = []

    def load(name):
        spec = importlib.util.spec_from_file_location(f"docs_{name}", HOOKS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look their module up
        loaded.append(spec.name)
        spec.loader.exec_module(module)
        return module

    yield load
    for name in loaded:
        del sys.modules[name]
