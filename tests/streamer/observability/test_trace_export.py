"""What tracing may cost: no call, a bounded end, and nothing at all where it is off."""

import collections
import os
import subprocess
import sys
import time

import grpc
import pytest

from streamer.observability.otlp import (
    EXPORT_TIMEOUT_SECONDS,
    MAX_BATCH_SPANS,
    STOP_SECONDS,
    Spans,
)
from streamer.observability.tracing import TracingError, tracing_to
from streamer.process.local_server import local_server
from tests.streamer.observability.collector import (
    Collector,
    Hanging,
    attributes,
    collecting,
    flags,
    pieces_of,
    run,
)

LONG = STOP_SECONDS + 15
"""Seconds; on a machine that has much else to do."""


@pytest.fixture(scope="module")
def pieces(request_of, demo_call):
    return pieces_of(demo_call, request_of)


def test_remaining_spans_are_sent_at_stop(request_of, make_line):
    collector = Collector()
    with collecting(collector) as endpoint:
        with local_server(*flags(endpoint)) as server:
            run(make_line(server.target), request_of.config(call_id="last"))
        assert collector.of("last")
    resource = attributes(collector.requests[0].resource_spans[0].resource)
    assert resource["service.name"] == "voicecohort"


def seconds_to_stop(server):
    began = time.monotonic()
    server.process.terminate()
    server.process.wait(60)
    assert server.process.returncode == 0
    return time.monotonic() - began


def test_unreachable_collector_affects_no_call(free_port, request_of, make_line, pieces, log_entry):
    with local_server(*flags(f"127.0.0.1:{free_port}")) as server:
        line = make_line(server.target)
        for number in range(3):
            config = request_of.config(call_id=f"alone-{number}", channels=[{}, {}])
            responses, code = run(line, config, *pieces[:50])
            assert code is grpc.StatusCode.OK
            assert responses[-1].prediction.final
        assert str(free_port) in log_entry(server, "tracing_failed", level="warning")["reason"]
        run(line, request_of.config(call_id="last"))
        assert seconds_to_stop(server) < LONG
        assert server.other == [], "a line that is no JSON"


def test_hanging_collector_delays_stop_by_seconds(request_of, make_line):
    with (
        collecting(Hanging()) as endpoint,
        local_server(*flags(endpoint)) as server,
    ):
        assert run(make_line(server.target), request_of.config())[1] is grpc.StatusCode.OK
        assert seconds_to_stop(server) < LONG


def test_queued_spans_do_not_delay_stop():
    """A batch may take EXPORT_TIMEOUT_SECONDS; a queue of them must not take as many times that."""
    batches = 5
    assert batches * EXPORT_TIMEOUT_SECONDS > LONG
    lost = collections.Counter()
    with collecting(Hanging()) as endpoint:
        spans = Spans(
            endpoint,
            insecure=True,
            ratio=1.0,
            on_export=lambda number, outcome: lost.update({outcome: number}),
        )
        for _ in range(batches * MAX_BATCH_SPANS):
            spans.call(()).ended("OK", "finished", None)
        began = time.monotonic()
        spans.stop()
        assert time.monotonic() - began < LONG
    assert lost == {"lost": batches * MAX_BATCH_SPANS}


# --- without the extra ---


@pytest.fixture
def without_opentelemetry(tmp_path):
    """Variables with which the packages cannot be imported."""
    package = tmp_path / "opentelemetry"
    package.mkdir()
    missing = "No module named 'opentelemetry'"
    (package / "__init__.py").write_text(
        f'raise ModuleNotFoundError("{missing}", name="opentelemetry")\n'
    )
    return {"PYTHONPATH": str(tmp_path)}


@pytest.mark.parametrize("check", [(), ("--check",)])
def test_missing_extra_is_named(without_opentelemetry, check):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "streamer.serve", "--listen", "127.0.0.1:0"),
            *("--otlp-endpoint", "collector:4317", *check),
        ],
        env=os.environ | without_opentelemetry,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.strip() == (
        "otlp_endpoint collector:4317: tracing needs packages that are not installed: "
        "pip install 'voicecohort[tracing]' (No module named 'opentelemetry')"
    )


def test_server_without_tracing_needs_no_extra(without_opentelemetry):
    with local_server(environment=without_opentelemetry) as server:
        assert server.process.poll() is None
    loaded = (
        "import sys, streamer.serve; "
        "print([m for m in sys.modules if m.startswith('opentelemetry')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", loaded], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


def test_other_missing_module_is_raised(monkeypatch):
    monkeypatch.setitem(sys.modules, "streamer.observability.otlp", None)
    with pytest.raises(ModuleNotFoundError, match=r"streamer\.observability\.otlp") as raised:
        tracing_to("collector:4317", insecure=True, ratio=1.0, on_export=lambda *_: None)
    assert not isinstance(raised.value, TracingError)
