"""The shipped envoy.yaml in the real Envoy, in front of two real servers."""

import asyncio
import contextlib
import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request

import grpc
import pytest

from streamer.client import Client
from streamer.settings import ServerSettings

Code = grpc.StatusCode


@pytest.fixture
def open_calls(make_line, request_of, chunks):
    """Open calls through a fleet's Envoy, each with a third of its audio sent."""

    def open_(fleet, name, count):
        here = make_line(fleet.target)
        calls = {}
        for number in range(count):
            call_id = f"{name}-{number}"
            config = request_of.config(call_id=call_id)
            calls[call_id] = patiently(lambda config=config: started(here, config, *chunks[:13]))
        return calls

    return open_


def started(here, *requests):
    call = here.open(*requests)
    assert call.read().HasField("started")
    return call


def patiently(begin):
    """Again where this machine is too busy for another call, which is right and not our matter."""
    while True:
        try:
            return begin()
        except grpc.RpcError as error:
            if not error.details().startswith("the server is full"):
                raise
            time.sleep(0.2)


@pytest.fixture
def finish(chunks, quiet, assert_same_prediction):
    """Send the rest of calls; each must end as it would have without Envoy."""

    def finish_(calls):
        for call in calls.values():
            call.send(*chunks[13:])
            call.half_close()
        for call in calls.values():
            outcome = call.outcome()
            assert (outcome.code, outcome.details) == (Code.OK, "")
            assert_same_prediction(outcome.finals[0], quiet)

    return finish_


def by_replica(fleet, calls):
    placed = {index: {} for index in range(len(fleet.replicas))}
    for call_id, call in calls.items():
        placed[fleet.of_call(call_id)][call_id] = call
    return placed


def test_calls_are_spread_evenly_and_end_well(fleet, open_calls, finish):
    """Best of three of two: a difference of ten, 5 and 15, comes about in 2 of 100 million runs."""
    calls = open_calls(fleet, "spread", 20)
    assert min(len(placed) for placed in by_replica(fleet, calls).values()) > 5
    finish(calls)


def test_trunk_calls_equal_stream_calls(fleet, run_async, chunks):
    """To Envoy a trunk is one stream: its calls are all on one replica."""

    async def classified(client, call_id=""):
        async with client.call(call_id=call_id) as call:
            for chunk in chunks:
                await call.send(chunk.audio.data)
            return await call.finish()

    async def main():
        async with Client(fleet.target) as own, Client(fleet.target, trunks=2) as shared:
            return await classified(own), await asyncio.gather(
                *(classified(shared, name) for name in names)
            )

    names = [f"trunk-{number}" for number in range(6)]
    (alone,), calls = run_async(main())
    for trunk in (names[::2], names[1::2]):
        assert len({fleet.of_call(call_id) for call_id in trunk}) == 1
    for (final,) in calls:
        assert final.sequence == alone.sequence
        assert final.speech_time == alone.speech_time
        assert final.gender.posterior == pytest.approx(alone.gender.posterior, abs=1e-5)


def test_least_loaded_replica_gets_the_next_call(fleet, open_calls, finish):
    first = by_replica(fleet, open_calls(fleet, "first", 20))
    finish(first[0])
    second = open_calls(fleet, "second", 10)
    # Binomial with 7/8 while it has fewer: 3 or less would be the other way round.
    assert len(by_replica(fleet, second)[0]) > 3
    finish(first[1] | second)


def test_draining_replica_keeps_its_calls(make_fleet, open_calls, finish, log_entry, until):
    fleet = make_fleet(2, "--drain-seconds", "25")
    running = open_calls(fleet, "running", 6)
    first = fleet.replicas[0]
    first.terminate()
    log_entry(first.server, "draining")
    new = open_calls(fleet, "new", 6)
    assert len(by_replica(fleet, new)[1]) == 6
    until(lambda: fleet.ill() == {0: {"failed_active_health_check"}}, "the drain to be noticed")
    refused = refusals(first)
    more = open_calls(fleet, "more", 6)
    assert len(by_replica(fleet, more)[1]) == 6
    assert refusals(first) == refused, "Envoy still asks it"
    finish(running | new | more)
    assert first.wait() == 0

    first.start()
    fleet.envoy.wait_healthy()
    after = open_calls(fleet, "after", 10)
    assert by_replica(fleet, after)[0]
    finish(after)


def refusals(replica):
    return [entry["status"] for entry in replica.log if entry["event"] == "call_refused"]


def test_unchecked_failure_costs_no_call(make_fleet, open_calls, finish, log_entry):
    """A replica that drains, then is dead; health is checked once, when all is well."""
    fleet = make_fleet(2, "--drain-seconds", "25", health_seconds=600)
    first = fleet.replicas[0]
    running = by_replica(fleet, open_calls(fleet, "running", 12))
    first.terminate()
    log_entry(first.server, "draining")
    new = open_calls(fleet, "new", 20)
    assert len(by_replica(fleet, new)[1]) == 20
    assert set(refusals(first)) == {"UNAVAILABLE"}, "none of them met the draining one"
    assert not fleet.ill()

    first.kill()
    more = open_calls(fleet, "more", 20)
    assert len(by_replica(fleet, more)[1]) == 20
    assert fleet.ill() == {0: {"failed_outlier_check"}}
    finish(running[1] | new | more)


def test_a_killed_replica_is_ejected_and_new_calls_go_on(make_fleet, open_calls, finish, until):
    fleet = make_fleet(2)
    calls = by_replica(fleet, open_calls(fleet, "before", 6))
    fleet.replicas[0].kill()
    for call in calls[0].values():
        # Envoy's word for a connection that broke behind the first response. INTERNAL of the
        # server itself names the error.
        outcome = call.outcome()
        assert outcome.code is Code.INTERNAL
        assert "RST_STREAM" in outcome.details
    new = open_calls(fleet, "new", 6)
    assert len(by_replica(fleet, new)[1]) == 6
    until(lambda: 0 in fleet.ill(), "the ejection")
    finish(calls[1] | new)
    fleet.replicas[0].start()
    fleet.envoy.wait_healthy()
    finish(open_calls(fleet, "after", 4))


def test_full_replica_costs_no_call(make_fleet, open_calls, finish):
    """Each takes one call: the second never ends at the first's limit."""
    fleet = make_fleet(2, "--max-calls", "1")
    for round_ in range(5):
        calls = open_calls(fleet, f"round-{round_}", 2)
        assert [len(placed) for placed in by_replica(fleet, calls).values()] == [1, 1]
        finish(calls)


def test_statuses_and_their_details_pass_unchanged(
    make_fleet, make_line, request_of, chunks, log_entry
):
    """As the whole answer, and behind responses: RetryInfo is in the trailers."""
    fleet = make_fleet(1, "--max-calls", "1", "--drain-seconds", "2", health_seconds=600)
    (replica,) = fleet.replicas
    through, beside = make_line(fleet.target), make_line(replica.target)
    call = patiently(lambda: started(through, request_of.config(), *chunks))
    call.wait_for(lambda r: r.HasField("prediction"))
    refused, directly = (here.run(request_of.config()) for here in (through, beside))
    assert refused.code is Code.RESOURCE_EXHAUSTED
    assert (refused.code, refused.details) == (directly.code, directly.details)
    assert refused.retry_seconds == directly.retry_seconds == 1.0
    replica.terminate()
    log_entry(replica.server, "draining")
    refused = through.run(request_of.config())
    assert refused.responses == []
    ended = call.outcome()
    assert ended.responses[-1].prediction.final
    for outcome in (refused, ended):
        assert outcome.code is Code.UNAVAILABLE
        assert outcome.details == "the server is shutting down; call again, another one may answer"
        assert outcome.retry_seconds == 1.0


def test_envoy_passes_messages_of_any_accepted_size(fleet, make_line, request_of):
    """Ten seconds of the widest audio in one message, and one sample more."""
    config = request_of.config(encoding=3, sample_rate=16000, channels=[{}, {}])
    longest = bytes(10 * 16000 * 2 * 2)
    through, beside = make_line(fleet.target), make_line(fleet.replicas[0].target)
    for audio in (longest, longest + bytes(4), longest + bytes(4096), bytes(5_000_000)):
        calls = [patiently(lambda h=here: started(h, config)) for here in (through, beside)]
        for call in calls:
            call.send(request_of.audio(1, audio))
            call.half_close()
        outcomes = [call.outcome() for call in calls]
        assert outcomes[0].code is outcomes[1].code
        assert outcomes[0].details == outcomes[1].details
        assert (outcomes[0].code is Code.OK) == (audio is longest)


def test_silent_gateways_eject_no_replica(make_fleet, make_line):
    """DEADLINE_EXCEEDED is 504 to Envoy, and five of those in a row would be its default."""
    fleet = make_fleet(2, "--config-timeout", "0.3")
    here = make_line(fleet.target)
    silent = [here.open() for _ in range(24)]
    codes = [call.outcome().code for call in silent]
    assert set(codes) <= {Code.DEADLINE_EXCEEDED, Code.RESOURCE_EXHAUSTED}  # a busy machine
    assert codes.count(Code.DEADLINE_EXCEEDED) >= 12
    assert fleet.envoy.stats("cluster.replicas.outlier_detection.")["ejections_active"] == 0
    assert not fleet.ill()


def test_no_timeout_of_envoy_ends_a_call(fleet):
    """Read from the running Envoy, defaults included where they would cut."""
    dump = json.loads(fleet.envoy.get("/config_dump"))
    (listeners,) = (c for c in dump["configs"] if "static_listeners" in c)
    listener = next(
        entry["listener"]
        for entry in listeners["static_listeners"]
        if entry["listener"]["name"] == "calls"
    )
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    assert seconds(manager["stream_idle_timeout"]) == 0
    assert seconds(manager["stream_flush_timeout"]) >= ServerSettings().idle_timeout
    assert seconds(manager["request_timeout"]) == 0
    assert "max_connection_duration" not in manager["common_http_protocol_options"]
    assert "max_stream_duration" not in manager["common_http_protocol_options"]
    (host,) = manager["route_config"]["virtual_hosts"]
    for entry in host["routes"]:
        route = entry["route"]
        assert [seconds(route[name]) for name in ("timeout", "idle_timeout")] == [0, 0]
        assert seconds(route["max_stream_duration"]["max_stream_duration"]) == 0
        again = set(route["retry_policy"]["retry_on"].split(","))
        assert again == {"connect-failure", "refused-stream", "unavailable", "resource-exhausted"}
        assert "per_try_idle_timeout" not in route["retry_policy"]


def test_room_for_thousands_of_calls(fleet):
    limits = fleet.envoy.stats("cluster.replicas.circuit_breakers.default.")
    assert not any(value for name, value in limits.items() if name.endswith("_open"))
    breakers = json.loads(fleet.envoy.get("/clusters?format=json"))["cluster_statuses"]
    (replicas,) = (c for c in breakers if c["name"] == "replicas")
    thresholds = replicas["circuit_breakers"]["thresholds"][0]
    assert thresholds["max_requests"] >= 100_000
    assert min(thresholds["max_connections"], thresholds["max_pending_requests"]) >= 10_000
    assert thresholds["max_retries"] >= 1000


def test_no_secret_is_logged(fleet, request_of, make_line, until):
    before = fleet.envoy.stats("http.calls.")["downstream_rq_total"]
    here = make_line(fleet.target)
    metadata = (("authorization", "Bearer s3cr3t-token"), ("x-other", "s3cr3t-too"))
    stream = here.method(iter([request_of.config(call_id="quiet-one")]), metadata=metadata)
    with contextlib.suppress(grpc.RpcError):  # this machine may be too busy
        list(stream)
    until(lambda: len(fleet.envoy.access_log()) > before, "the line of the access log")
    entry = fleet.envoy.access_log()[-1]
    assert entry["path"] == "/voicecohort.v1.ClassifierService/StreamClassify"
    assert entry["status"] in {"OK", "ResourceExhausted"}
    assert entry["replica"] in {replica.target for replica in fleet.replicas}
    assert "s3cr3t" not in fleet.envoy.everything_written()


def test_only_calls_and_health_are_let_through(fleet, make_line):
    channel = make_line(fleet.target).channel
    for method in (
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "/voicecohort.v2.ClassifierService/StreamClassify",
    ):
        stream = channel.stream_stream(method)(iter([b""]))
        with pytest.raises(grpc.RpcError):
            next(stream)
        assert stream.code() is Code.UNIMPLEMENTED
    assert http(f"{fleet.envoy.watch}/ready")[0] == 200
    assert http(f"{fleet.envoy.watch}/live")[0] == 200
    status, page = http(f"{fleet.envoy.watch}/stats/prometheus")
    assert status == 200
    assert "envoy_cluster_upstream_rq_active" in page
    for path in ("/config_dump", "/quitquitquit", "/", "/stats/prometheus/../../config_dump"):
        assert http(f"{fleet.envoy.watch}{path}")[0] == 404
    assert http(f"{fleet.envoy.watch}/stats/prometheus", b"")[0] == 404


def test_alert_rules_use_envoys_metrics(fleet, deploy):
    if (promtool := shutil.which("promtool")) is None:
        pytest.skip("promtool is not installed")
    rules = deploy / "envoy-rules.yaml"
    subprocess.run([promtool, "check", "rules", rules], check=True, timeout=30)
    page = http(f"{fleet.envoy.watch}/stats/prometheus")[1]
    names = set(re.findall(r"^(\w+)\{", page, re.MULTILINE))
    queried = set(re.findall(r"\b(envoy_\w+)\{", rules.read_text()))
    assert len(queried) >= 6
    assert queried <= names
    (pattern,) = re.findall(r'__name__=~"([^"]+)"', rules.read_text())
    assert len([name for name in names if re.fullmatch(pattern, name)]) == 4


def http(url, data=None):
    """Status and body; a POST if there are data."""
    try:
        with urllib.request.urlopen(url, data, timeout=10) as answer:  # noqa: S310 - http, ours
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with contextlib.closing(error):
            return error.code, ""


def seconds(duration):
    """Of a protobuf duration as JSON."""
    return float(duration.removesuffix("s"))


def test_envoy_drains_without_cutting_calls(make_fleet, open_calls, finish, deploy, until):
    fleet = make_fleet(1)
    running = open_calls(fleet, "running", 2)
    words = ["bash", deploy / "drain-envoy.sh", "60", fleet.envoy.admin]
    draining = subprocess.Popen([*map(str, words)])
    until(lambda: http(f"{fleet.envoy.watch}/ready")[0] == 503, "/ready to say so")
    assert http(f"{fleet.envoy.watch}/live")[0] == 200
    finish(open_calls(fleet, "late", 2))
    time.sleep(2.5)  # longer than the script's own pause
    assert draining.poll() is None
    finish(running)
    assert draining.wait(10) == 0
    assert fleet.envoy.stats("http.calls.")["downstream_rq_active"] == 0


def test_envoy_stops_at_the_deadline(fleet, open_calls, finish, deploy):
    running = open_calls(fleet, "running", 1)
    words = ["bash", deploy / "drain-envoy.sh", "0", fleet.envoy.admin]
    assert subprocess.run([*map(str, words)], check=False, timeout=10).returncode == 0
    fleet.envoy.get("/healthcheck/ok", "POST")
    finish(running)
