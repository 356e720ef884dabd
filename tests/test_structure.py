"""The layout reads as the way of a call, and stays so: folders, sizes, words, names, imports."""

import ast
import re
import subprocess
import tomllib
from collections import Counter, defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STAGES = ["audio", "call", "checkpoint", "inference", "session", "transport"]
CONCERNS = ["client", "observability", "process", "security"]
DATA = ["demo", "models", "rpc"]
MAX_FILE_LINES = 320
MAX_MODULES = 14
MAX_BENCHMARK_FILES, MAX_BENCHMARK_LINES = 35, 6_800
MAX_PYTHON_LINES, MAX_LINES = 66_300, 101_000
"""Sizes of the tree now: lower them when it shrinks, never raise them without a reason."""
MAX_CONTRACT_LINES = 60
MAX_LAYERS = 11
FORBIDDEN = re.compile(r"\b(heard|told|owed|greet|befell|hears)\b")
DISCOURAGED = re.compile(r"\b(said|says|wanted|asked)\b")


def sources(*folders):
    """Python files without the generated ones."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "_pb2" not in path.name:
                yield path


def modules(folder):
    return [path.stem for path in folder.glob("*.py") if not path.stem.startswith("__")]


def test_folders_of_the_server():
    folders = sorted(
        path.name for path in (ROOT / "streamer").iterdir() if path.is_dir() and path.name[0] != "_"
    )
    assert folders == sorted([*STAGES, *CONCERNS, *DATA])
    assert len(modules(ROOT / "streamer")) <= 6
    crowded = [
        folder for folder in folders if len(modules(ROOT / "streamer" / folder)) > MAX_MODULES
    ]
    assert crowded == []


def test_files_are_short():
    long = {
        str(path.relative_to(ROOT)): lines
        for path in sources("streamer", "model", "train", "benchmarks")
        if (lines := len(path.read_text().splitlines())) > MAX_FILE_LINES
    }
    assert long == {}


def test_benchmarks_are_few():
    files = list(sources("benchmarks"))
    assert len(files) <= MAX_BENCHMARK_FILES
    assert sum(len(path.read_text().splitlines()) for path in files) <= MAX_BENCHMARK_LINES
    assert set(modules(ROOT / "benchmarks")) == {
        "accuracy",
        "compare",
        "latency",
        "soak",
        "throughput",
    }


def test_words_of_the_old_vocabulary_are_gone():
    found, discouraged = [], 0
    for path in sources("streamer", "model", "train", "benchmarks"):
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            if FORBIDDEN.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
            discouraged += len(DISCOURAGED.findall(line))
    assert found == []
    assert discouraged < 30


def test_class_names_are_unique():
    """Apart from the two ends of one thing, in client and server."""
    places, methods = defaultdict(list), defaultdict(set)
    for path in sources("streamer", "model", "train"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(path.relative_to(ROOT))
                for item in node.body:
                    if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef):
                        methods[item.name].add(node.name)
    repeated = {
        name: paths
        for name, paths in places.items()
        if len([path for path in paths if path.parts[:2] != ("streamer", "client")]) > 1
    }
    assert repeated == {}
    vague = {name: methods[name] for name in ("put", "say", "take", "place")}
    assert {name: owners for name, owners in vague.items() if len(owners) > 2} == {}


def test_import_contracts_name_packages():
    text = (ROOT / "pyproject.toml").read_text()
    contracts = text[text.index("[tool.importlinter]") :]
    assert len(contracts.splitlines()) <= MAX_CONTRACT_LINES
    for contract in tomllib.loads(text)["tool"]["importlinter"]["contracts"]:
        assert len(contract.get("layers", [])) <= MAX_LAYERS


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout: sizes NOT checked")
def test_tracked_lines():
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    paths = [ROOT / name for name in names if name and (ROOT / name).is_file()]
    lines = Counter()
    for path in paths:
        lines[path.suffix == ".py"] += path.read_bytes().count(b"\n")
    assert lines[True] < MAX_PYTHON_LINES
    assert lines.total() < MAX_LINES
    large = [path.name for path in paths if path.suffix == ".json" and path.stat().st_size > 20_000]
    assert large == ["grafana-dashboard.json"]
