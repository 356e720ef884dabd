"""What Prometheus sees of a real server, and what is counted of a call."""

import datetime as dt
import os
import resource
import shutil
import subprocess
import time
import urllib.request
from dataclasses import dataclass
from importlib.metadata import version
from types import SimpleNamespace

import grpc
import pytest
import trustme
from prometheus_client.parser import text_string_to_metric_families

from streamer.audio.codec import SAMPLE_RATE
from streamer.observability.metrics import Metrics, ReportedTotals
from streamer.process.local_server import local_server

CHUNK = SAMPLE_RATE // 10
EXPIRY = dt.datetime(2099, 12, 31, 23, 59, 59, tzinfo=dt.UTC)


@dataclass
class Session:
    audio_seconds: float = 0.0
    classified_seconds: float = 0.0
    speech_seconds: float = 0.0
    lost_seconds: float = 0.0


def values(text):
    """Sample value by name and sorted labels."""
    return {
        (sample.name.removeprefix("voicecohort_"), *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


@pytest.fixture(scope="module")
def server():
    with local_server("--metrics-listen", "127.0.0.1:0", "--max-calls", "2") as started:
        yield started


@pytest.fixture(scope="module")
def scrape(server):
    (address,) = (line["metrics"] for line in server.log if line.get("event") == "serving")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def scraped(raw=False):
        with opener.open(address, timeout=10) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain")
            text = answer.read().decode()
            return text if raw else values(text)

    return scraped


def until(condition, seconds=10.0):
    """Poll: counters follow the end of a stream by a moment."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_call_is_counted_whole(server, scrape, make_line, request_of, demo_call):
    data = demo_call.data
    before = scrape()
    outcome = make_line(server.target).run(
        request_of.config(channels=[{}, {}]),
        *(
            request_of.audio(n, data[start : start + 2 * CHUNK])
            for n, start in enumerate(range(0, len(data) // (2 * CHUNK) * 2 * CHUNK, 2 * CHUNK))
        ),
    )
    assert outcome.code is grpc.StatusCode.OK
    key = ("calls_total", "OK", "finished")
    until(lambda: scrape()[key] == before.get(key, 0) + 1)
    after = scrape()
    final = outcome.finals
    seconds = final[0].audio_time.ToTimedelta().total_seconds()
    speech = sum(f.speech_time.ToTimedelta().total_seconds() for f in final.values())

    def gained(*key):
        return after[key] - before.get(key, 0)

    assert gained("audio_seconds_total") == pytest.approx(seconds)
    assert gained("speech_seconds_total") == pytest.approx(speech, abs=0.01)
    assert gained("classified_seconds_total") == pytest.approx(2 * seconds)
    assert gained("lost_seconds_total") == 0
    assert gained("prediction_latency_seconds_count") == sum(
        not prediction.final for prediction in outcome.predictions
    )
    assert gained("prediction_latency_seconds_sum") > 0
    for task in ("gender", "age_group", "age_band"):
        for prediction in final.values():
            label = getattr(prediction, task).label or "undecided"
            assert after["decisions_total", *sorted((task, label))] >= 1
    blocks = gained("batch_blocks_sum")
    assert blocks == pytest.approx(speech / 0.32, abs=2)
    assert gained("step_seconds_count") == gained("queue_seconds_count") > 0
    assert after["inference_failures_total",] == 0
    assert after["calls_open",] == 0
    assert after["draining",] == 0
    assert ("model_info", "CPUExecutionProvider", server_model(server)) in after


def server_model(server):
    return next(line["model"] for line in server.log if line.get("event") == "serving")


def test_open_refused_and_failed_calls_are_distinct(server, scrape, make_line, request_of):
    line = make_line(server.target)
    calls = [line.open(request_of.config()) for _ in range(2)]
    for call in calls:
        call.read()
    until(lambda: scrape()["calls_open",] == 2)
    assert line.run(request_of.config()).code is grpc.StatusCode.RESOURCE_EXHAUSTED
    until(lambda: ("refusals_total", "RESOURCE_EXHAUSTED", "calls") in scrape())
    calls[0].send(request_of.config())  # a second config
    assert calls[0].outcome().code is grpc.StatusCode.FAILED_PRECONDITION
    calls[1].cancel()
    until(lambda: scrape()["calls_open",] == 0)
    after = scrape()
    assert after["refusals_total", "RESOURCE_EXHAUSTED", "calls"] == 1
    assert after["calls_total", "FAILED_PRECONDITION", "precondition"] == 1
    assert after["calls_total", "CANCELLED", "cancelled"] == 1


def test_audio_before_a_resumption_is_not_counted():
    metrics, session = Metrics(), Session()
    session.audio_seconds, session.classified_seconds = 10.0, 20.0
    session.speech_seconds, session.lost_seconds = 4.0, 1.0
    counted = ReportedTotals.of(session)
    metrics.add_totals([(session, counted)])

    def total(name):
        return metrics.registry.get_sample_value(f"voicecohort_{name}_seconds_total")

    assert [total(name) for name in ("audio", "classified", "speech", "lost")] == [0, 0, 0, 0]
    session.audio_seconds, session.classified_seconds, session.speech_seconds = 11.0, 22.0, 4.5
    metrics.add_totals([(session, counted)])
    assert [total(name) for name in ("audio", "classified", "speech", "lost")] == [1, 2, 0.5, 0]


def test_a_running_call_is_counted_once():
    metrics, session, counted = Metrics(), Session(), ReportedTotals()

    def total(name):
        return metrics.registry.get_sample_value(f"voicecohort_{name}_seconds_total")

    for second in range(1, 6):
        session.audio_seconds, session.speech_seconds = second, second / 2
        metrics.add_totals([(session, counted)])
        assert (total("audio"), total("speech")) == (second, second / 2)
    session.classified_seconds = 5.0
    session.speech_seconds = 0.25  # a discard, then a little more
    metrics.add_totals([(session, counted)])
    assert total("speech") == 2.75
    metrics.add_totals([(session, counted)])
    assert (total("audio"), total("speech"), total("lost")) == (5, 2.75, 0)
    assert total("classified") == 5


def test_metrics_do_not_name_a_call(server, scrape, make_line, request_of):
    make_line(server.target).run(request_of.config(call_id="caller-4711"))
    assert not any("4711" in str(key) for key in scrape())


def test_names_and_types_follow_prometheus(scrape):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool (Debian package prometheus) is missing: metrics were NOT checked")
    done = subprocess.run(
        [promtool, "check", "metrics"],
        input=scrape(raw=True),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_process_itself_is_measured(server, scrape):
    seen = scrape()
    assert seen["process_start_time_seconds",] == pytest.approx(time.time(), abs=300)
    assert seen["process_cpu_seconds_total",] > 0
    assert 50e6 < seen["process_resident_memory_bytes",] < 2e9
    with os.scandir(f"/proc/{server.process.pid}/fd") as open_ones:
        assert seen["process_open_fds",] == pytest.approx(len(list(open_ones)), abs=5)
    assert seen["process_max_fds",] == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert ("build_info", *sorted((version("voicecohort"), version("grpcio")))) in seen


def test_expiry_of_the_certificates_in_use():
    certificates = SimpleNamespace(expiry={"server": 1.8e9, "client_ca": 1.9e9})
    metrics = Metrics()
    metrics.watch_certificates(certificates)

    def expiry(file):
        name = "voicecohort_certificate_expiry_timestamp_seconds"
        return metrics.registry.get_sample_value(name, {"file": file})

    assert (expiry("server"), expiry("client_ca")) == (1.8e9, 1.9e9)
    certificates.expiry = {"server": 2.0e9, "client_ca": 1.9e9}
    assert expiry("server") == 2.0e9


def test_expiry_is_that_of_the_files(tmp_path):
    leaf = trustme.CA().issue_cert("localhost", not_after=EXPIRY)
    certificate, key = tmp_path / "server.pem", tmp_path / "server.key"
    leaf.cert_chain_pems[0].write_to_path(certificate)
    leaf.private_key_pem.write_to_path(key)
    secure = ("--tls-certificate", str(certificate), "--tls-key", str(key))
    with local_server(*secure, "--metrics-listen", "127.0.0.1:0") as started:
        (line,) = (entry for entry in started.log if entry["event"] == "serving")
        with urllib.request.urlopen(line["metrics"], timeout=10) as answer:  # noqa: S310 - ours
            seen = values(answer.read().decode())
    name = "certificate_expiry_timestamp_seconds"
    assert {key: value for key, value in seen.items() if key[0] == name} == {
        (name, "server"): EXPIRY.timestamp()
    }


def test_metrics_are_off_by_default():
    with local_server() as started:
        (line,) = (entry for entry in started.log if entry.get("event") == "serving")
        assert line["metrics"] == ""


def test_several_calls_are_counted_together():
    metrics, counted = Metrics(), [ReportedTotals(), ReportedTotals(audio=1.0)]
    sessions = [Session(), Session()]
    sessions[0].audio_seconds, sessions[1].audio_seconds = 2.0, 4.0
    metrics.add_totals(zip(sessions, counted, strict=True))
    assert metrics.registry.get_sample_value("voicecohort_audio_seconds_total") == 5
    assert [one.audio for one in counted] == [2.0, 4.0]
