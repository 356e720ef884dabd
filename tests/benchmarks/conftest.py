"""What several benchmarks are tested with."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def tested(prepared, tmp_path) -> Path:
    """The made corpus, whose dev split also stands for test: ten utterances of five people."""
    folder = tmp_path / "prepared"
    shutil.copytree(prepared, folder)
    shutil.copy(folder / "cuts.dev.jsonl.gz", folder / "cuts.test.jsonl.gz")
    return folder
