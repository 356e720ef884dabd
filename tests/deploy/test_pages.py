"""The operator's page names what there is."""

import re

import pytest
from prometheus_client import generate_latest

from streamer.observability.metrics import Metrics
from streamer.settings import ServerSettings


@pytest.fixture(scope="module")
def page(deploy):
    return (deploy / "README.md").read_text()


def test_links_lead_somewhere(page, deploy):
    links = re.findall(r"\]\(([^)#]+)\)", page)
    assert len(links) > 10
    assert [link for link in links if not (deploy / link).exists()] == []


def test_everything_here_is_linked(page, deploy):
    linked = {(deploy / link).resolve() for link in re.findall(r"\]\(([^)#]+)\)", page)}
    for path in deploy.iterdir():
        if path.name not in {"README.md", "prometheus-rules-test.yaml"}:
            assert path.resolve() in linked, path.name


def test_flags_are_flags(page):
    known = {f"--{name.replace('_', '-')}" for name in ServerSettings.model_fields}
    others = {"--file", "--tag", "--kustomize", "--from-file", "--config-path", "--concurrency"}
    others |= {"--ca", "--certificate", "--key"}  # of the probe
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", page))
    assert named - others <= known


def test_alerts_and_metrics_are_there(page, deploy):
    rules = "".join(
        (deploy / name).read_text() for name in ("prometheus-rules.yaml", "envoy-rules.yaml")
    )
    alerts = set(re.findall(r"`(Voicecohort\w+)`", page))
    assert len(alerts) >= 4
    assert alerts <= set(re.findall(r"alert: (\w+)", rules))
    metrics = set(re.findall(r"`(voicecohort_\w+)`", page))
    text = generate_latest(Metrics().registry).decode()
    assert metrics
    assert all(f"\n{name}" in text for name in metrics)


def test_secrets_are_those_of_the_manifests(page, deploy):
    manifests = "".join(path.read_text() for path in (deploy / "kubernetes").glob("*.yaml"))
    mounted = set(re.findall(r"secretName: ([\w-]+)", manifests))
    assert mounted == set(re.findall(r"^\| `(voicecohort-[\w-]+)` \| `", page, re.MULTILINE))
