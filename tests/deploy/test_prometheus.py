"""Rules and dashboard, held against a live server and the real Prometheus."""

import base64
import contextlib
import json
import secrets
import subprocess
import time
import urllib.parse
import urllib.request

import grpc
import pytest
import yaml
from google.protobuf.duration_pb2 import Duration
from prometheus_client.parser import text_string_to_metric_families

from streamer.audio.codec import SAMPLE_RATE
from streamer.process.local_server import local_server
from tests.deploy.conftest import free_ports, wait_until
from tests.deploy.promql import (
    ALL_RULES,
    EXPRESSIONS,
    PANELS,
    RECORDED,
    RULES,
    filled_in,
    program,
    selected,
)

PROMETHEUS_OWN = {"up": set(), "time": set()}
"""Names that Prometheus itself makes, and their labels."""
TARGET_LABELS = {"job", "instance", "le"}
SPECIAL = {"Certificates: time left (s)", "Spans, by outcome of their export (spans/s)"}
"""Panels that are empty without TLS and without tracing."""
CHUNK = 2 * SAMPLE_RATE // 10


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    keys = tmp_path_factory.mktemp("keys") / "keys.toml"
    secret = base64.b64encode(secrets.token_bytes(32)).decode()
    keys.write_text(f'[[key]]\nid = "k"\nsecret = "{secret}"\n')
    flags = ("--metrics-listen", "127.0.0.1:0", "--checkpoint-keys", str(keys))
    with local_server("--provider", "cpu", *flags) as started:
        yield started


@pytest.fixture(scope="module")
def metrics(server):
    """URL of a live server's metrics."""
    (line,) = (entry for entry in server.log if entry["event"] == "serving")
    return line["metrics"]


@pytest.fixture(scope="module")
def use(server, make_line, request_of, demo_call):
    """Have a call go well, with checkpoints, and one be refused."""
    line = make_line(server.target)
    data = demo_call.data
    audio = [
        request_of.audio(n, data[start : start + CHUNK])
        for n, start in enumerate(range(0, len(data) // CHUNK * CHUNK, CHUNK), start=1)
    ]
    config = request_of.config(channels=[{}, {}], checkpoint_interval=Duration(seconds=1))

    def used():
        # A busy machine asks to wait.
        wait_until(lambda: line.run(config, *audio).code is grpc.StatusCode.OK, "a call", 60)
        assert line.run(request_of.config(sample_rate=11025)).code is not grpc.StatusCode.OK

    return used


def get(url, **form):
    """JSON of Prometheus' HTTP API, or a page's text."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    data = urllib.parse.urlencode(form).encode() if form else None
    with opener.open(url, data, timeout=10) as answer:
        text = answer.read().decode()
        return json.loads(text) if "json" in answer.headers["Content-Type"] else text


@pytest.fixture(scope="module")
def exported(metrics, use):
    """{name: labels of its samples} that a live server exports; None for no sample yet."""
    use()
    wait_until(lambda: "voicecohort_calls_total" in get(metrics), "the call to be counted")
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
    names = {}
    for family in text_string_to_metric_families(get(metrics)):
        for suffix in suffixes.get(family.type, ("",)):
            names[family.name + suffix] = None
        for sample in family.samples:
            names[sample.name] = (names.get(sample.name) or set()) | set(sample.labels)
    return names


@pytest.mark.parametrize(("where", "expression"), EXPRESSIONS, ids=[w for w, _ in EXPRESSIONS])
def test_rules_use_only_exported_metrics(where, expression, exported):
    for name, labels in selected(expression).items():
        if name in RECORDED:
            continue
        assert name in exported | PROMETHEUS_OWN, f"{where}: no server exports {name}"
        known = (exported | PROMETHEUS_OWN)[name]
        if known is not None:
            assert labels <= known | TARGET_LABELS, f"{where}: {name} has no such label"


def test_every_metric_is_used(exported):
    """A metric on no panel and in no rule is one that nobody will see."""
    seen = set().union(*(selected(expression) for _, expression in EXPRESSIONS))
    ours = {name for name in exported if name.startswith("voicecohort_")}
    sums = {name for name in ours if name.endswith(("_sum", "_count"))}
    assert ours - seen - sums == set()


@contextlib.contextmanager
def running_prometheus(folder, target, port):
    """Prometheus with our rules, evaluated each second, on a loopback port; its URL."""
    hurried = folder / "rules.yaml"
    hurried.write_text(RULES.read_text().replace("interval: 30s", "interval: 1s"))
    config = {
        "global": {
            "scrape_interval": "500ms",
            "scrape_timeout": "500ms",
            "evaluation_interval": "1s",
        },
        "rule_files": [str(hurried)],
        "scrape_configs": [
            {"job_name": "voicecohort", "static_configs": [{"targets": [target]}]},
        ],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    url = f"http://127.0.0.1:{port}"
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [
                program("prometheus"),
                f"--config.file={folder / 'prometheus.yaml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--log.level=warn",
            ],
            stderr=log,
        )
    try:

        def ready():
            assert process.poll() is None, (folder / "log").read_text()
            with contextlib.suppress(OSError):
                return "Ready" in get(f"{url}/-/ready")
            return False

        wait_until(ready, "Prometheus")
        yield url
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory, metrics, use):
    """A Prometheus that has seen a live server before and after calls."""
    program("prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    target = urllib.parse.urlsplit(metrics).netloc
    use()
    (port,) = free_ports(1)
    with running_prometheus(folder, target, port) as url:

        def value(expression):
            result = get(f"{url}/api/v1/query", query=expression)["data"]["result"]
            return float(result[0]["value"][1]) if result else None

        ended = 'sum(voicecohort_calls_total{status="OK"})'
        before = wait_until(lambda: value(ended), "a first scrape")
        use()
        wait_until(lambda: value(ended) > before, "the second call")
        wait_until(lambda: value("job:voicecohort_refusals:ratio_rate5m"), "the rules")
        yield url


def test_prometheus_accepts_server_and_rules(prometheus):
    (target,) = get(f"{prometheus}/api/v1/targets")["data"]["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")

    def evaluated():
        groups = get(f"{prometheus}/api/v1/rules")["data"]["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        return rules if all(rule["health"] != "unknown" for rule in rules) else None

    rules = wait_until(evaluated, "every rule")
    assert len(rules) == len(ALL_RULES)
    assert [rule for rule in rules if rule["health"] != "ok"] == []
    firing = [
        alert["labels"]["alertname"]
        for alert in get(f"{prometheus}/api/v1/alerts")["data"]["alerts"]
        if alert["state"] == "firing" and alert["labels"]["severity"] == "critical"
    ]
    assert firing == [], "of a server that is well"


@pytest.mark.parametrize("panel", PANELS, ids=[panel["title"] for panel in PANELS])
def test_every_panel_has_data(prometheus, panel):
    for target in panel["targets"]:
        query = filled_in(target["expr"])
        answer = get(f"{prometheus}/api/v1/query", query=query)
        assert answer["status"] == "success"
        assert bool(answer["data"]["result"]) is (panel["title"] not in SPECIAL), query
        now = time.time()
        ranged = get(
            f"{prometheus}/api/v1/query_range", query=query, start=now - 60, end=now, step=15
        )
        assert ranged["status"] == "success"


def test_ratios_of_the_dashboard_are_ratios(prometheus):
    for panel in PANELS:
        if (
            panel["type"] == "timeseries"
            and panel["fieldConfig"]["defaults"]["unit"] == "percentunit"
        ):
            for target in panel["targets"]:
                result = get(f"{prometheus}/api/v1/query", query=filled_in(target["expr"]))
                values = [float(series["value"][1]) for series in result["data"]["result"]]
                assert all(0 <= value <= 1 for value in values), (panel["title"], values)
