"""The pages of operations name what there is: tests, files, alerts, secrets."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OPERATIONS = ROOT / "docs" / "operations"
DEPLOY = ROOT / "deploy"
TEST = re.compile(r"`(tests/[\w/]+\.py)?(?:::)?(test_\w+)?`")
"""A file, a test in it, or another test of the file before."""


def page(name):
    return (OPERATIONS / f"{name}.md").read_text()


def fault_rows():
    """Cells of the last column of the table of faults, without the heading."""
    lines = [line for line in page("faults").splitlines() if line.startswith("| ")]
    return [line.rstrip("| ").rpartition("|")[2].strip() for line in lines[1:]]


@pytest.mark.parametrize("cell", fault_rows())
def test_every_fault_names_tests_that_exist(cell):
    path, found = None, 0
    for file, name in TEST.findall(cell):
        path = ROOT / file if file else path
        assert path is not None, cell
        assert not name or re.search(rf"def {name}\(", path.read_text()), f"{path}: {name}"
        found += 1
    assert found == cell.count("`") / 2 > 0


def test_every_deployed_file_is_on_a_page():
    text = page("deploy") + page("observability")
    named = {(ROOT / name).resolve() for name in re.findall(r"`(deploy/[\w./-]+)`", text)}
    assert [path.name for path in DEPLOY.iterdir() if path.resolve() not in named] == []


def test_alerts_are_those_of_the_rules():
    rules = "".join(
        (DEPLOY / name).read_text() for name in ("prometheus-rules.yaml", "envoy-rules.yaml")
    )
    alerts = set(re.findall(r"`(Voicecohort\w+)`", page("observability")))
    assert len(alerts) >= 4
    assert alerts <= set(re.findall(r"alert: (\w+)", rules))


def test_secrets_are_those_of_the_manifests():
    manifests = "".join(path.read_text() for path in (DEPLOY / "kubernetes").glob("*.yaml"))
    mounted = set(re.findall(r"secretName: ([\w-]+)", manifests))
    assert mounted == set(re.findall(r"^\| `(voicecohort-[\w-]+)` \| `", page("deploy"), re.M))


def test_metrics_in_the_text_are_exported(load_hook):
    reference = load_hook("reference")
    exported = {reference.exported_name(family) for family in reference.metric_families()}
    for path in OPERATIONS.glob("*.md"):
        named = set(re.findall(r"`(voicecohort_[a-z_]+)`", path.read_text()))
        assert named <= exported, path.name


def test_log_events_in_the_text_are_explained():
    text = (ROOT / "docs" / "reference" / "log-events.toml").read_text()
    known = set(re.findall(r"^(\w+) = ", text, re.M))
    for path in OPERATIONS.glob("*.md"):
        endings = r"changed|failed|died|retired|unresponsive|started"
        named = set(re.findall(rf"\(`([a-z]+(?:_[a-z]+)+_?(?:{endings}))`\)", path.read_text()))
        assert named <= known, path.name
