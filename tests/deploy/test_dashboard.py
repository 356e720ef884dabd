"""Rules and dashboard by themselves: valid, tested, distinct."""

import itertools

import pytest
import yaml

from tests.deploy.promql import (
    ALERTS,
    ALL_RULES,
    DASHBOARD,
    PANELS,
    RULES,
    RULES_TEST,
    dashboard_expressions,
    promtool,
    selected,
)


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ("up", {"up": set()}),
        ('sum by (job, le) (rate(a_total{x!="b{c}", y=~"d"}[5m]))', {"a_total": {"x", "y"}}),
        (
            "a:b_c:rate5m / on (job) group_left () (time() - d > 1e8)",
            {"a:b_c:rate5m": set(), "d": set()},
        ),
        (
            "max_over_time(a[1h] offset 6h) and on (job) b or 0 * c",
            {"a": set(), "b": set(), "c": set()},
        ),
    ],
)
def test_names_are_found_in_an_expression(expression, names):
    assert selected(expression) == names


def test_rules_are_valid():
    assert f"{len(ALL_RULES)} rules found" in promtool("check", "rules", RULES)


def test_rules_pass_their_tests():
    assert "SUCCESS" in promtool("test", "rules", RULES_TEST)


def test_every_alert_fires_and_has_a_runbook():
    cases = [
        case
        for test in yaml.safe_load(RULES_TEST.read_text())["tests"]
        for case in test.get("alert_rule_test", ())
    ]
    fired = {case["alertname"] for case in cases if case["exp_alerts"]}
    names = [rule["alert"] for rule in ALERTS]
    assert fired == set(names)
    assert len(set(names)) == len(names)
    for rule in ALERTS:
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert set(rule["annotations"]) == {"summary", "description", "runbook"}
        assert all(len(text) > 15 for text in rule["annotations"].values())


def test_every_expression_of_the_dashboard_is_promql(tmp_path):
    rules = [
        {"record": f"panel:{number}", "expr": expression}
        for number, (_, expression) in enumerate(dashboard_expressions())
    ]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", file)


def test_panels_are_distinct_and_do_not_overlap():
    everything = DASHBOARD["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    titles = [panel["title"] for panel in everything]
    assert len(set(titles)) == len(titles)
    taken = set()
    for panel in everything:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = set(
            itertools.product(
                range(place["x"], place["x"] + place["w"]),
                range(place["y"], place["y"] + place["h"]),
            )
        )
        assert not cells & taken, panel["title"]
        taken |= cells


def test_panels_have_unit_description_and_source():
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert variables == {"datasource", "job", "instance"}
    for panel in PANELS:
        title = panel["title"]
        assert panel["description"], title
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, title
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs) > 0, title
        assert all(t["datasource"] == panel["datasource"] for t in panel["targets"]), title
        if panel["type"] != "table":
            assert panel["fieldConfig"]["defaults"]["unit"], title


def test_rows_of_the_dashboard():
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert rows == [
        "Traffic",
        "Quality of service",
        "Model",
        "Speech and decisions",
        "Refusals",
        "Checkpoints and resumed calls",
        "Process",
    ]
