"""Every flag, metric, log event and error is on its generated page, and nothing else is."""

import re
from pathlib import Path

import pytest
from prometheus_client import generate_latest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def reference(load_hook):
    """The hook of the documentation build."""
    return load_hook("reference")


@pytest.fixture(scope="module")
def page(reference):
    """A page of the reference as built: page("settings")."""
    return lambda name: reference.render((DOCS / "reference" / f"{name}.md").read_text())


def test_every_flag_is_on_the_settings_page(reference, page):
    rows = re.findall(r"^\| `(--[a-z-]+)`<br>`(VOICECOHORT_\w+)` \|", page("settings"), re.M)
    assert [flag for flag, _ in rows] == reference.flags()
    assert all(
        variable == f"VOICECOHORT_{flag[2:].replace('-', '_').upper()}" for flag, variable in rows
    )
    assert len(rows) > 30


def test_every_exported_metric_is_on_the_metrics_page(reference, page):
    text = generate_latest(reference.load(reference.METRICS)().registry).decode()
    families = re.findall(r"^# TYPE (voicecohort_\w+) ", text, re.M)
    rows = re.findall(r"^\| `(voicecohort_\w+)` \|", page("metrics"), re.M)
    assert sorted(rows) == sorted(families)
    assert len(rows) > 20


def test_labels_of_metrics_are_on_the_page(page):
    assert re.search(
        r"\| `voicecohort_calls_total` \| counter \| `status`, `reason` \|", page("metrics")
    )
    assert re.search(
        r"\| `voicecohort_decisions_total` \| counter \| `task`, `label` \|", page("metrics")
    )


def test_every_log_event_is_on_the_log_page(reference, page):
    rows = re.findall(r"^\| `(\w+)` \| ([\w, ]+) \| ([\w`, ]*) \| \S", page("log-events"), re.M)
    events = reference.log_events()
    assert {event for event, *_ in rows} == events.keys()
    assert len(rows) == len(events) > 30
    for event, levels, fields in rows:
        assert set(levels.split(", ")) == events[event].levels
        assert set(re.findall(r"\w+", fields)) == events[event].fields


def test_event_without_explanation_fails_the_build(reference, page, tmp_path, monkeypatch):
    text = reference.EXPLANATIONS.read_text()
    shorter = tmp_path / "log-events.toml"
    monkeypatch.setattr(reference, "EXPLANATIONS", shorter)
    shorter.write_text(re.sub(r"^call_ended = .*\n", "", text, flags=re.M))
    with pytest.raises(reference.IncompleteReference, match="no explanation of \\['call_ended'\\]"):
        page("log-events")
    shorter.write_text(f'{text}\nnever_logged = "Nothing."\n')
    with pytest.raises(reference.IncompleteReference, match="explains \\['never_logged'\\]"):
        page("log-events")


def test_event_that_is_not_a_literal_fails_the_build(reference, tmp_path, monkeypatch):
    (tmp_path / "code.py").write_text("log.info(name, field=1)\n")
    monkeypatch.setattr(reference, "PACKAGE", tmp_path)
    with pytest.raises(reference.IncompleteReference, match=r"code\.py:1"):
        reference.log_events()


def test_every_status_and_reason_is_on_the_errors_page(reference, page):
    table = page("errors")
    classes, known = [reference.load(reference.ERRORS)], set()
    while classes:
        subclasses = classes.pop().__subclasses__()
        classes += subclasses
        known |= {kind.status for kind in subclasses}
    rows = re.findall(r"^\| `([A-Z_]+)` \| ([\w`, ]+) \| (?:yes|no) \| \S", table, re.M)
    assert {status for status, _ in rows} == known
    reasons = {code for _, codes in rows for code in re.findall(r"`(\w+)`", codes)}
    assert {"calls", "identity_calls", "full", "token_unknown", "checkpoint", "idle"} <= reasons
    assert "unknown" not in reasons


def test_unknown_table_fails_the_build(reference):
    with pytest.raises(KeyError, match="no-such-table"):
        reference.render("<!-- generated: no-such-table -->")
