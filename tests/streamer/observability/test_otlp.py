"""Spans as a real OpenTelemetry collector gets them from a real server."""

import base64
import json
import logging
import secrets
import time
import urllib.request

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from opentelemetry.proto.trace.v1 import trace_pb2
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from streamer.observability.otlp import (
    LOG_INTERVAL_SECONDS,
    METHOD,
    WarningHandler,
)
from streamer.process.local_server import local_server
from tests.streamer.observability.collector import (
    PARENT,
    TRACE,
    Collector,
    attributes,
    collecting,
    flags,
    parent,
    pieces_of,
    run,
)

SECRET = "hunter2hunter2"  # noqa: S105 - it opens nothing


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
    return pieces_of(demo_call, request_of)


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


def test_span_of_a_call_has_its_callers_parent(collector, line, request_of, pieces):
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


def test_a_resumed_call_has_one_event_and_count(keys, request_of, make_line, pieces):
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
def test_a_call_without_traceparent_starts_a_trace(collector, line, request_of, value):
    metadata = {"traceparent": value} if value else {}
    call_id = f"root-{value[:6]}-{len(value)}"
    assert run(line, request_of.config(call_id=call_id), **metadata)[1] is grpc.StatusCode.OK
    span = collector.span(call_id)
    assert span.parent_span_id == b""
    assert len(span.trace_id) == 16
    assert span.trace_id != bytes(16)


def test_errors_and_refusals_have_spans(collector, server, line, request_of, log_entry):
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


def test_untraced_caller_gets_no_span(collector, server, line, request_of):
    run(line, request_of.config(call_id="quiet"), traceparent=parent("c" * 32, sampled="00"))
    run(line, request_of.config(call_id="after-quiet"))
    collector.span("after-quiet")
    assert not collector.of("quiet")
    (entry,) = (e for e in server.log if e["event"] == "call_started" and e["call_id"] == "quiet")
    assert entry["trace_id"] == "c" * 32, "the caller's own log can still be joined"


def test_log_lines_have_call_id_and_trace_id(collector, server, line, request_of):
    run(line, request_of.config(call_id="named"), traceparent=parent("d" * 32))
    collector.span("named")
    about = [e for e in server.log if str(e["event"]).startswith("call_")]
    assert {e["event"] for e in about if e.get("trace_id") == "d" * 32} >= {
        "call_started",
        "call_ended",
    }
    assert all(e["trace_id"] for e in about)
    # A stream refused for overload ends before its config.
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


def test_sampled_share_and_idle_timeout(request_of, make_line):
    collector = Collector()
    sparing = ("--otlp-sample-ratio", "0", "--idle-timeout", "0.5")
    with (
        collecting(collector) as endpoint,
        local_server(*flags(endpoint, *sparing)) as server,
    ):
        line = make_line(server.target)
        run(line, request_of.config(call_id="left-out"))
        metadata = (("traceparent", parent()),)
        call = line.method(Silent(request_of.config(call_id="idle")), metadata=metadata)
        with pytest.raises(grpc.RpcError) as raised:
            list(call)
        assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        span = collector.span("idle")
    assert attributes(span)["error.type"] == "DEADLINE_EXCEEDED"
    assert span.status.code == trace_pb2.Status.STATUS_CODE_ERROR
    assert not collector.of("left-out")


def test_warnings_of_opentelemetry_come_once_a_minute():
    now = [100.0]
    warnings = WarningHandler(clock=lambda: now[0])
    record = logging.makeLogRecord({"msg": "no %s", "args": ("answer",)})
    with capture_logs() as lines:
        for _ in range(5):
            warnings.emit(record)
        now[0] += LOG_INTERVAL_SECONDS
        warnings.emit(record)
    assert [(e["reason"], e["suppressed"]) for e in lines] == [("no answer", 0), ("no answer", 4)]
