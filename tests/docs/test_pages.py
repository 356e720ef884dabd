"""Pages: links and paths lead somewhere, commands and their flags exist."""

import ast
import functools
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
FRONT = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]
FOLDERS = "proto|streamer|model|train|benchmarks|tests|deploy|docs"
WORDS = re.compile(r"\b(heard|told|owed|greet|befell|hears)\b")


def name_of(path):
    return str(path.relative_to(ROOT))


def prose(path):
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S)


@functools.cache
def anchors(path):
    """The anchors of the headings of a page, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.*)$", prose(path), re.M)
    plain = [re.sub(r"[^\w\- ]", "", heading.replace("`", "")).lower() for heading in headings]
    return {re.sub(r"[\s]+", "-", heading.strip()) for heading in plain}


@pytest.mark.parametrize("path", [*FRONT, *PAGES], ids=name_of)
def test_links_lead_somewhere(path):
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if link.startswith("https://"):
            continue
        target, _, anchor = link.partition("#")
        file = (path.parent / target).resolve() if target else path
        assert file.exists(), link
        assert file.is_relative_to(ROOT), link
        assert not anchor or anchor in anchors(file), link


@pytest.mark.parametrize("path", [*FRONT, *PAGES], ids=name_of)
def test_paths_in_the_text_exist(path):
    for name in re.findall(rf"`((?:{FOLDERS})/[\w./-]*)`", prose(path)):
        assert (ROOT / name).exists(), name


def test_every_page_is_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text()
    listed = re.findall(r"([\w/-]+\.md)$", text, re.M)
    assert sorted(listed) == sorted(str(page.relative_to(DOCS)) for page in PAGES)


@pytest.mark.parametrize("path", [*FRONT, *PAGES], ids=name_of)
def test_words_are_plain(path):
    text = re.sub(r"`[^`]*`", "", prose(path))
    assert WORDS.findall(text) == []


# --- commands ---


def commands():
    """(page, words) of every command of the project in a console block."""
    for path in [*FRONT, *PAGES]:
        for block in re.findall(r"^```console\n(.*?)^```", path.read_text(), re.M | re.S):
            for line in block.replace("\\\n", " ").splitlines():
                if line.startswith("$ "):
                    words = shlex.split(line[2:].strip("()"), comments=True)
                    if any(word in {"-m", "make"} or word.endswith(".py") for word in words):
                        yield name_of(path), words


COMMANDS = list(commands())


def module_file(module):
    path = ROOT / module.replace(".", "/")
    return path / "__main__.py" if path.is_dir() else path.with_suffix(".py")


@functools.cache
def flags_of(file):
    """Every flag that a command defines: literals of argparse, fields of settings, in its package.

    Static, because ``--help`` of a training command imports PyTorch.
    """
    found = set()
    for source in ROOT.joinpath(file.relative_to(ROOT).parts[0]).rglob("*.py"):
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= set(re.findall(r"^--[a-z][a-z0-9-]*$", node.value))
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found.add(f"--{node.target.id.replace('_', '-')}")
    return found | {"--help"} | {flag.replace("--", "--no-", 1) for flag in found}


def test_there_are_commands():
    assert len(COMMANDS) > 40


@pytest.mark.parametrize(
    "words", [w for _, w in COMMANDS], ids=[f"{p}:{w[:4]}" for p, w in COMMANDS]
)
def test_commands_and_their_flags_exist(words):
    if "make" in words:
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
        assert words[words.index("make") + 1] in targets
        return
    if "pytest" in words:
        return
    if "-m" in words:
        file = module_file(words[words.index("-m") + 1])
    else:
        file = ROOT / next(word for word in words if word.endswith(".py"))
    assert file.exists(), file
    start = words.index("-m") + 2 if "-m" in words else 0
    used = {word.partition("=")[0] for word in words[start:] if re.match(r"--[a-z]", word)}
    assert used <= flags_of(file), used - flags_of(file)


def test_server_flags_in_the_text_exist(load_hook):
    """A flag of the server that a page of operations names is one."""
    known = set(load_hook("reference").flags())
    known |= {f"--no-{flag[2:]}" for flag in known}
    others = {"--ca", "--certificate", "--key", "--config-path", "--token-file", "--target"}
    for path in [*DOCS.glob("operations/*.md"), *DOCS.glob("reference/*.md"), ROOT / "SECURITY.md"]:
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", prose(path)))
        assert named - others <= known, (name_of(path), named - others - known)


def test_extras_in_install_commands_exist():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    text = "".join(path.read_text() for path in [*FRONT, *PAGES])
    named = re.findall(r"voicecohort(?:-\*\.whl\))?\[([a-z,]+)\]", text)
    assert named
    assert set(",".join(named).split(",")) <= project["optional-dependencies"].keys()


def test_changelog_has_the_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    text = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$", text, re.M)


def test_site_builds(tmp_path):
    """With strict: a broken link, anchor or table fails it."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    settings = (tmp_path / "reference" / "settings" / "index.html").read_text()
    assert "VOICECOHORT_MAX_CALLS" in settings
    # Nothing of the theme is fetched from elsewhere when a page is read.
    home = (tmp_path / "index.html").read_text()
    assert not re.search(r"<(?:script|link|img)[^>]+(?:src|href)=\"https?://", home)
    assert not (tmp_path / "hooks").exists()
