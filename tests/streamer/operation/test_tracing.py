"""Spans as a real OpenTelemetry collector gets them from a real server."""

import base64
import collections
import contextlib
import json
import logging
import os
import secrets
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent import futures

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1 import trace_pb2
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from streamer.codec import SAMPLE_RATE
from streamer.local import local_server
from streamer.operation.spans import (
    BATCH,
    COMPLAIN_SECONDS,
    EXPORT_SECONDS,
    METHOD,
    STOP_SECONDS,
    Complaints,
    Spans,
)
from streamer.operation.tracing import TracingError, tracing_to

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
"""The example of W3C Trace Context."""
SECRET = "hunter2hunter2"  # noqa: S105 - it opens nothing
LONG = STOP_SECONDS + 15
"""Seconds; on a machine that has much else to do."""
CHUNK = 2 * SAMPLE_RATE // 10


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps what it gets."""

    def __init__(self):
        self.requests = []
        self._came = threading.Condition()

    def Export(self, request, _):  # noqa: N802 - OTLP's name
        with self._came:
            self.requests.append(request)
            self._came.notify_all()
        return trace_service_pb2.ExportTraceServiceResponse()

    @property
    def spans(self):
        return [
            span
            for request in self.requests
            for of_resource in request.resource_spans
            for of_scope in of_resource.scope_spans
            for span in of_scope.spans
        ]

    def of(self, call_id):
        """Spans of a call that came so far."""
        return [s for s in self.spans if attributes(s).get("voicecohort.call.id") == call_id]

    def span(self, call_id):
        """Wait for the one span of a call."""
        with self._came:
            assert self._came.wait_for(lambda: self.of(call_id), timeout=30), "no span came"
            (span,) = self.of(call_id)
        return span


class Hanging(Collector):
    """Answers when the other side has given up."""

    def Export(self, request, context):  # noqa: ARG002, N802
        over = threading.Event()
        context.add_callback(over.set)
        over.wait(60)


def attributes(thing):
    """Values of a span, event or resource by name."""
    values = {}
    for pair in thing.attributes:
        value = getattr(pair.value, pair.value.WhichOneof("value"))
        if pair.value.HasField("array_value"):
            value = [getattr(each, each.WhichOneof("value")) for each in value.values]
        values[pair.key] = value
    return values


@contextlib.contextmanager
def collecting(collector):
    """Let it listen; its address."""
    server = grpc.server(futures.ThreadPoolExecutor(4))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def flags(endpoint, *more):
    return "--otlp-endpoint", endpoint, "--otlp-insecure", *more


@pytest.fixture(scope="module")
def collector():
    return Collector()


@pytest.fixture(scope="module")
def server(collector):
    with (
        collecting(collector) as endpoint,
        local_server(*flags(endpoint, "--log-level", "debug")) as started,
    ):
        yield started


@pytest.fixture(scope="module")
def line(server, make_line):
    return make_line(server.target)


@pytest.fixture(scope="module")
def pieces(request_of, demo_call):
    """Audio of the demo call, 100 ms each."""
    data = demo_call.data
    return [
        request_of.audio(n, data[start : start + CHUNK])
        for n, start in enumerate(range(0, len(data) // CHUNK * CHUNK, CHUNK), start=1)
    ]


def run(line, *requests, **metadata):
    """A whole call with metadata; its responses and status. A busy machine may ask to wait."""
    for _ in range(60):
        stream = line.method(iter(requests), metadata=tuple(metadata.items()), timeout=60)
        responses = []
        with contextlib.suppress(grpc.RpcError):
            responses.extend(stream)
        if stream.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
            break
        time.sleep(0.5)
    return responses, stream.code()


class Silent:
    """One request, then nothing until the call is over."""

    def __init__(self, request):
        self._requests = iter([request])

    def __iter__(self):
        return self

    def __next__(self):
        for request in self._requests:
            return request
        time.sleep(2)  # gRPC's own thread; four times the idle limit
        raise StopIteration


def parent(trace=TRACE, sampled="01"):
    return f"00-{trace}-{PARENT}-{sampled}"


def test_a_call_becomes_a_span_of_its_caller(collector, line, request_of, pieces):
    responses, code = run(
        line,
        request_of.config(call_id="whole", channels=[{}, {}]),
        *pieces[:100],
        *pieces[102:],
        traceparent=parent(),
        tracestate="vendor=value",
    )
    assert code is grpc.StatusCode.OK
    span = collector.span("whole")
    finals = [r.prediction for r in responses if r.prediction.final]
    seconds = finals[0].audio_time.ToTimedelta().total_seconds()
    speech = sum(final.speech_time.ToTimedelta().total_seconds() for final in finals)
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert span.trace_state == "vendor=value"
    assert span.name == METHOD == "voicecohort.v1.ClassifierService/StreamClassify"
    assert span.kind == trace_pb2.Span.SPAN_KIND_SERVER
    assert span.status.code == trace_pb2.Status.STATUS_CODE_UNSET
    assert 0 < span.end_time_unix_nano - span.start_time_unix_nano < 60e9
    assert attributes(span) == {
        "rpc.system.name": "grpc",
        "rpc.method": METHOD,
        "rpc.response.status_code": "OK",
        "voicecohort.reason": "finished",
        "voicecohort.call.id": "whole",
        "voicecohort.call.encoding": "mulaw",
        "voicecohort.call.sample_rate": 8000,
        "voicecohort.call.channels": 2,
        "voicecohort.call.resumed": False,
        "voicecohort.call.checkpoints": 0,
        "voicecohort.call.audio_seconds": pytest.approx(seconds, abs=0.001),
        "voicecohort.call.speech_seconds": pytest.approx(speech, abs=0.001),
        "voicecohort.call.lost_seconds": pytest.approx(0.2, abs=0.001),
        "voicecohort.model.id": responses[0].started.model.model_id,
    }


def first_decisions(responses):
    """(channel, task, label, speech) in the order in which the caller saw them."""
    found = {}
    for prediction in (response.prediction for response in responses):
        for task in ("gender", "age_group", "age_band"):
            if label := getattr(prediction, task).label:
                speech = prediction.speech_time.ToTimedelta().total_seconds()
                found.setdefault((prediction.channel, task), (label, pytest.approx(speech)))
    return [(*of, *decision) for of, decision in found.items()]


def test_events_are_the_first_decisions_and_the_changes(collector, line, request_of, pieces):
    config = request_of.config(call_id="eventful", channels=[{}, {}])
    call = line.open(config, *pieces[:150])
    before = call.wait_for(lambda r: r.prediction.sequence >= 145 and r.prediction.channel == 1)
    call.send(request_of.control("hold", 0), request_of.control("resume", 0))
    call.send(request_of.control("discard", 1), *pieces[150:])
    call.half_close()
    assert call.outcome().code is grpc.StatusCode.OK
    events = [(event.name, attributes(event)) for event in collector.span("eventful").events]
    assert events[0] == ("started", {})
    names = [name for name, _ in events]
    discarded = names.index("discard")
    assert [event for event in events[1:] if event[0] != "decision"] == [
        ("hold", {"voicecohort.channels": [0]}),
        ("resume", {"voicecohort.channels": [0]}),
        ("discard", {"voicecohort.channels": [1]}),
    ]

    def decisions(some):
        keys = ("channel", "task", "label", "speech_seconds")
        return [
            tuple(values[f"voicecohort.{key}"] for key in keys)
            for name, values in some
            if name == "decision"
        ]

    expected = first_decisions(before)
    first, later = decisions(events[:discarded]), decisions(events[discarded:])
    assert expected
    assert first[: len(expected)] == expected
    assert len({d[:2] for d in first}) == len(first), "only the first of a channel and task"
    assert {d[:2] for d in later if d[0] == 0}.isdisjoint({d[:2] for d in first})
    assert {d[0] for d in later} >= {1}, "another person: decided on anew"


@pytest.fixture
def keys(tmp_path):
    file = tmp_path / "keys.toml"
    secret = base64.b64encode(secrets.token_bytes(32)).decode()
    file.write_text(f'[[key]]\nid = "k"\nsecret = "{secret}"\n')
    return file


def totals(server):
    """Seconds counted so far, by name."""
    (address,) = (e["metrics"] for e in server.log if e["event"] == "serving")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(address, timeout=10) as answer:
        return {
            family.name: family.samples[0].value
            for family in text_string_to_metric_families(answer.read().decode())
            if family.name.endswith("_seconds") and family.type == "counter"
        }


def test_a_call_that_resumes_is_told_and_counted_once(keys, request_of, make_line, pieces):
    collector = Collector()
    more = ("--checkpoint-keys", str(keys), "--metrics-listen", "127.0.0.1:0")
    with collecting(collector) as endpoint, local_server(*flags(endpoint, *more)) as server:
        line = make_line(server.target)
        fields = {
            "call_id": "moving",
            "channels": [{}, {}],
            "checkpoint_interval": Duration(seconds=5),
        }
        call = line.open(request_of.config(**fields), *pieces[:100])
        checkpoint = call.wait_for(lambda r: r.HasField("checkpoint"))[-1].checkpoint
        call.cancel()
        first = collector.span("moving")
        before = totals(server)
        rest = pieces[checkpoint.sequence :]
        again = request_of.config(**fields, resume_from=checkpoint.data)
        assert run(line, again, *rest)[1] is grpc.StatusCode.OK
        wait = time.monotonic() + 30
        while len(collector.of("moving")) < 2:
            assert time.monotonic() < wait
            time.sleep(0.05)
        (second,) = (s for s in collector.of("moving") if s is not first)
        after = totals(server)
    assert first.events[0].name == "started"
    (event,) = (event for event in first.events if event.name == "checkpoint")
    assert attributes(event) == {"voicecohort.sequence": checkpoint.sequence}
    assert attributes(first)["voicecohort.call.checkpoints"] >= 1
    assert attributes(first)["rpc.response.status_code"] == "CANCELLED"
    assert second.events[0].name == "resumed"
    assert attributes(second)["voicecohort.call.resumed"] is True
    seconds = 0.1 * len(pieces)
    assert attributes(second)["voicecohort.call.audio_seconds"] == pytest.approx(seconds)
    gained = {name.removeprefix("voicecohort_"): after[name] - before[name] for name in before}
    assert gained["audio_seconds"] == pytest.approx(0.1 * len(rest))
    assert gained["classified_seconds"] == pytest.approx(2 * 0.1 * len(rest))
    assert gained["lost_seconds"] == 0
    assert 0 < gained["speech_seconds"] < gained["classified_seconds"]


@pytest.mark.parametrize("value", ["", "00-garbage", f"00-{'0' * 32}-{PARENT}-01"])
def test_an_own_trace_begins_where_the_caller_names_none(collector, line, request_of, value):
    metadata = {"traceparent": value} if value else {}
    call_id = f"root-{value[:6]}-{len(value)}"
    assert run(line, request_of.config(call_id=call_id), **metadata)[1] is grpc.StatusCode.OK
    span = collector.span(call_id)
    assert span.parent_span_id == b""
    assert len(span.trace_id) == 16
    assert span.trace_id != bytes(16)


def test_errors_and_refusals_are_told(collector, server, line, request_of, log_entry):
    bad = request_of.audio(1, b"")
    _, code = run(line, request_of.config(call_id="bad"), bad, traceparent=parent("1" * 32))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    span = collector.span("bad")
    assert attributes(span)["rpc.response.status_code"] == "INVALID_ARGUMENT"
    assert attributes(span)["voicecohort.reason"] == "invalid"
    assert "error.type" not in attributes(span), "a caller's mistake is no error of the server"
    assert span.status.code == trace_pb2.Status.STATUS_CODE_UNSET
    log_entry(server, "call_failed", trace_id="1" * 32, call_id="bad")
    log_entry(server, "call_ended", trace_id="1" * 32, call_id="bad")

    refused = request_of.config(call_id="refused", sample_rate=44100)
    run(line, refused, traceparent=parent("2" * 32))
    log_entry(server, "call_refused", trace_id="2" * 32, call_id="refused")
    run(line, request_of.config(call_id="behind"))
    collector.span("behind")
    span = [s for s in collector.spans if s.trace_id.hex() == "2" * 32][-1]
    assert "voicecohort.call.id" not in attributes(span), "it never became a call"
    assert attributes(span)["rpc.response.status_code"] == "INVALID_ARGUMENT"


def test_a_caller_that_is_not_traced_is_not_traced_here(collector, server, line, request_of):
    run(line, request_of.config(call_id="quiet"), traceparent=parent("c" * 32, sampled="00"))
    run(line, request_of.config(call_id="after-quiet"))
    collector.span("after-quiet")
    assert not collector.of("quiet")
    (entry,) = (e for e in server.log if e["event"] == "call_started" and e["call_id"] == "quiet")
    assert entry["trace_id"] == "c" * 32, "the caller's own log can still be joined"


def test_every_line_about_a_call_names_it_and_its_trace(collector, server, line, request_of):
    run(line, request_of.config(call_id="named"), traceparent=parent("d" * 32))
    collector.span("named")
    about = [e for e in server.log if str(e["event"]).startswith("call_")]
    assert {e["event"] for e in about if e.get("trace_id") == "d" * 32} >= {
        "call_started",
        "call_ended",
    }
    assert all(e["trace_id"] for e in about)
    # Who is refused because the server is busy has not been asked for its config.
    unread = {"call_refused"}
    assert all(e["call_id"] for e in about if e["event"] not in unread)


def test_nothing_secret_is_in_the_spans(collector, server, line, request_of, pieces):
    run(
        line,
        request_of.config(call_id="secretive", channels=[{}, {}]),
        *pieces[:100],
        authorization=f"Bearer {SECRET}",
        baggage=f"user={SECRET}",
        cookie=SECRET,
    )
    collector.span("secretive")
    wire = b"".join(request.SerializeToString() for request in collector.requests)
    assert b"secretive" in wire
    assert SECRET.encode() not in wire
    assert not any(piece.audio.data[:16] in wire for piece in pieces[:100])
    things = [*collector.spans, *(event for span in collector.spans for event in span.events)]
    keys = {key for thing in things for key in attributes(thing)}
    assert "voicecohort.label" in keys
    assert not any(word in key for key in keys for word in ("posterior", "confidence", "metadata"))
    assert SECRET not in json.dumps(server.log)


def test_only_the_wanted_share_is_traced_and_an_idle_call_is_an_error(request_of, make_line):
    collector = Collector()
    sparing = ("--otlp-sample-ratio", "0", "--idle-timeout", "0.5")
    with (
        collecting(collector) as endpoint,
        local_server(*flags(endpoint, *sparing)) as server,
    ):
        line = make_line(server.target)
        run(line, request_of.config(call_id="left-out"))
        wanted = (("traceparent", parent()),)
        call = line.method(Silent(request_of.config(call_id="idle")), metadata=wanted)
        with pytest.raises(grpc.RpcError) as raised:
            list(call)
        assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        span = collector.span("idle")
    assert attributes(span)["error.type"] == "DEADLINE_EXCEEDED"
    assert span.status.code == trace_pb2.Status.STATUS_CODE_ERROR
    assert not collector.of("left-out")


def test_what_is_left_is_sent_at_the_end(request_of, make_line):
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


def test_a_collector_that_is_down_harms_no_call(
    free_port, request_of, make_line, pieces, log_entry
):
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


def test_a_collector_that_hangs_holds_the_end_up_for_seconds_only(request_of, make_line):
    with (
        collecting(Hanging()) as endpoint,
        local_server(*flags(endpoint)) as server,
    ):
        assert run(make_line(server.target), request_of.config())[1] is grpc.StatusCode.OK
        assert seconds_to_stop(server) < LONG


def test_many_spans_that_wait_hold_the_end_up_no_longer():
    """A batch may take EXPORT_SECONDS; a queue of them must not take as many times that."""
    batches = 5
    assert batches * EXPORT_SECONDS > LONG
    lost = collections.Counter()
    with collecting(Hanging()) as endpoint:
        spans = Spans(
            endpoint,
            insecure=True,
            ratio=1.0,
            exported=lambda number, outcome: lost.update({outcome: number}),
        )
        for _ in range(batches * BATCH):
            spans.call(()).ended("OK", "finished", None)
        began = time.monotonic()
        spans.stop()
        assert time.monotonic() - began < LONG
    assert lost == {"lost": batches * BATCH}


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
def test_the_missing_extra_is_named_and_nothing_served(without_opentelemetry, check):
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


def test_a_server_without_tracing_needs_none_of_it(without_opentelemetry):
    with local_server(environment=without_opentelemetry) as server:
        assert server.process.poll() is None
    loaded = "import sys, streamer.serve; print([m for m in sys.modules if 'telemetry' in m])"
    done = subprocess.run(
        [sys.executable, "-c", loaded], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


def test_another_missing_module_is_not_taken_for_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "streamer.operation.spans", None)
    with pytest.raises(ModuleNotFoundError, match=r"streamer\.operation\.spans") as raised:
        tracing_to("collector:4317", insecure=True, ratio=1.0, exported=lambda *_: None)
    assert not isinstance(raised.value, TracingError)


def test_complaints_of_opentelemetry_come_once_a_minute():
    now = [100.0]
    complaints = Complaints(clock=lambda: now[0])
    record = logging.makeLogRecord({"msg": "no %s", "args": ("answer",)})
    with capture_logs() as lines:
        for _ in range(5):
            complaints.emit(record)
        now[0] += COMPLAIN_SECONDS
        complaints.emit(record)
    assert [(e["reason"], e["unsaid"]) for e in lines] == [("no answer", 0), ("no answer", 4)]
