"""Rules and dashboard as data, and what their PromQL asks for."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

import streamer

DEPLOY = Path(streamer.__file__).parents[1] / "deploy"
RULES, RULES_TEST = DEPLOY / "prometheus-rules.yaml", DEPLOY / "prometheus-rules-test.yaml"
GROUPS = yaml.safe_load(RULES.read_text())["groups"]
ALL_RULES = [rule for group in GROUPS for rule in group["rules"]]
ALERTS = [rule for rule in ALL_RULES if "alert" in rule]
RECORDED = {rule["record"] for rule in ALL_RULES if "record" in rule}
DASHBOARD = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def program(name):
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} (Debian package prometheus) is missing: this was NOT checked")
    return found


def promtool(*arguments):
    done = subprocess.run(
        [program("promtool"), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def filled_in(expression):
    """What Grafana sends in place of its variables."""
    for variable, value in {
        "$__rate_interval": "1m",
        "$job": "voicecohort",
        "$instance": ".*",
    }.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression, expression
    return expression


def dashboard_expressions():
    """(where, PromQL) of panels, annotations and variables."""
    for panel in PANELS:
        for target in panel["targets"]:
            yield panel["title"], filled_in(target["expr"])
    for annotation in DASHBOARD["annotations"]["list"]:
        if "expr" in annotation:
            yield annotation["name"], filled_in(annotation["expr"])
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            (series,) = re.findall(r"label_values\((.*), \w+\)", variable["definition"])
            yield variable["name"], filled_in(series)


EXPRESSIONS = [
    *dashboard_expressions(),
    *((rule.get("alert") or rule["record"], rule["expr"]) for rule in ALL_RULES),
]


def selected(expression):
    """{metric: labels that its matchers name} of a PromQL expression."""
    text = re.sub(r'"(?:[^"\\]|\\.)*"', '""', expression)
    text = re.sub(r"\[[^]]*\]", "", text)
    text = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", "", text)
    text = re.sub(r"\b(and|or|unless|bool|offset|atan2)\b", " ", text)
    found = {}
    for name, matchers in re.findall(r"\b([a-zA-Z_:][\w:]*)(?![\w:]|\s*\()(\{[^}]*\})?", text):
        if name not in re.findall(r"(\w+)\s*[=!]", text):  # a label inside braces
            found.setdefault(name, set()).update(re.findall(r"(\w+)\s*[=!]", matchers))
    return found
