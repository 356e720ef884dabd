"""The server as a process: how it starts, what it answers besides calls, how it stops."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import onnx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from streamer.audio.codec import Encoding, encode
from streamer.inference.metadata import METADATA_KEY
from streamer.inference.model import DEFAULT_MODEL
from streamer.process.local_server import local_server
from streamer.rpc import voicecohort_pb2 as pb

RATE = 8000
SERVICE = "voicecohort.v1.ClassifierService"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
Code = grpc.StatusCode


# --- servers that cannot start ---


def serve(*arguments, **environment):
    """Run the server to its end; one that serves would run into the timeout."""
    return subprocess.run(
        [sys.executable, "-m", "streamer.serve", "--listen", "127.0.0.1:0", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | environment,
    )


def write(path, content):
    path.write_bytes(content)
    return path


@pytest.fixture(scope="module")
def refusals(tmp_path_factory):
    """Output of servers that cannot start, by name; started two at a time."""
    folder = tmp_path_factory.mktemp("models")
    content = DEFAULT_MODEL.read_bytes()

    def altered(name, change):
        model = onnx.load_from_string(content)
        (entry,) = model.metadata_props
        entry.value = json.dumps(change(json.loads(entry.value)))
        return write(folder / name, model.SerializeToString())

    def bare():
        model = onnx.load_from_string(content)
        del model.metadata_props[:]
        return write(folder / "bare.onnx", model.SerializeToString())

    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    address = f"127.0.0.1:{taken.getsockname()[1]}"
    runs = {
        "missing": (["--model", folder / "missing.onnx"], {}),
        "truncated": (["--model", write(folder / "truncated.onnx", content[:100_000])], {}),
        "not onnx": (["--model", write(folder / "text.onnx", b"no model\n" * 50)], {}),
        "empty": (["--model", write(folder / "empty.onnx", b"")], {}),
        "no metadata": (["--model", bare()], {}),
        "contract": (["--model", altered("2.onnx", lambda m: m | {"contract": 2})], {}),
        "shapes": (
            ["--model", altered("d.onnx", lambda m: m | {"state_size": m["state_size"] - 1})],
            {},
        ),
        "model by environment": ([], {"VOICECOHORT_MODEL": str(folder / "missing.onnx")}),
        "port taken": (["--listen", address], {}),
        "no such host": (["--listen", "no.such.host.invalid:1"], {}),
        "bad flag": (["--max-calls", "0"], {}),
        "bad environment": ([], {"VOICECOHORT_IDLE_TIMEOUT": "soon"}),
        "two bad settings": (["--threads", "0"], {"VOICECOHORT_MAX_BATCH": "x"}),
        "unknown flag": (["--max-cals", "3"], {}),
        "unknown variable": ([], {"VOICECOHORT_MAX_CALL": "5", "VOICECOHORT_TOKEN": "x"}),
        "unlike any variable": ([], {"VOICECOHORT_XYZ": "5"}),
    }
    with taken, ThreadPoolExecutor(2) as pool:
        pending = {
            name: pool.submit(serve, *flags, **environment)
            for name, (flags, environment) in runs.items()
        }
        results = {name: result.result() for name, result in pending.items()}
    return folder, address, results


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "model file {folder}/missing.onnx: not found"),
        ("truncated", "model file {folder}/truncated.onnx: cannot be loaded: "),
        ("not onnx", "model file {folder}/text.onnx: cannot be loaded: "),
        ("empty", "model file {folder}/empty.onnx: cannot be loaded: "),
        (
            "no metadata",
            f"model file {{folder}}/bare.onnx: no metadata {METADATA_KEY!r}; not a student",
        ),
        ("contract", "model file {folder}/2.onnx: contract 2, this server speaks 1"),
        ("shapes", "model file {folder}/d.onnx: shapes "),
        ("model by environment", "model file {folder}/missing.onnx: not found"),
        ("port taken", "{address}"),
        ("no such host", "no.such.host.invalid:1"),
        ("bad flag", "setting max_calls: Input should be greater than or equal to 1, got '0'"),
        ("bad environment", "setting idle_timeout: Input should be a valid number"),
        (
            "unknown variable",
            "environment variable VOICECOHORT_MAX_CALL: no such setting; "
            "did you mean VOICECOHORT_MAX_CALLS?",
        ),
        ("unlike any variable", "environment variable VOICECOHORT_XYZ: no such setting"),
    ],
)
def test_server_that_cannot_start_prints_one_line(refusals, name, message):
    folder, address, results = refusals
    done = results[name]
    message = message.format(folder=folder, address=address)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    if name in {"port taken", "no such host"}:
        assert message in line
    else:
        assert line.startswith(message)


def test_every_bad_setting_has_its_line(refusals):
    done = refusals[2]["two bad settings"]
    assert done.returncode == 2
    assert sorted(line.split(":")[0] for line in done.stderr.splitlines()) == [
        "setting max_batch",
        "setting threads",
    ]


def test_unknown_flag_is_named(refusals):
    done = refusals[2]["unknown flag"]
    assert done.returncode == 2
    assert "--max-cals" in done.stderr
    assert "Traceback" not in done.stderr


# --- what it answers besides calls ---


def health(channel, service=""):
    stub = health_pb2_grpc.HealthStub(channel)
    return stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10).status


@pytest.mark.parametrize("service", ["", SERVICE])
def test_health_is_serving(line, service):
    assert health(line.channel, service) == SERVING


def test_health_of_an_unknown_service(line):
    with pytest.raises(grpc.RpcError) as caught:
        health(line.channel, "voicecohort.v9.ClassifierService")
    assert caught.value.code() is Code.NOT_FOUND


def reflect(line, **question):
    stub = reflection_pb2_grpc.ServerReflectionStub(line.channel)
    request = reflection_pb2.ServerReflectionRequest(**question)
    (answer,) = stub.ServerReflectionInfo(iter([request]), timeout=10)
    return answer


def test_reflection_lists_the_services(line):
    listed = reflect(line, list_services="").list_services_response.service
    assert {entry.name for entry in listed} == {
        SERVICE,
        "voicecohort.v1.TrunkService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }


def test_reflection_describes_the_service(line):
    answer = reflect(line, file_containing_symbol=SERVICE).file_descriptor_response
    assert pb.DESCRIPTOR.serialized_pb in list(answer.file_descriptor_proto)


def test_log_has_address_and_model(server, student, log_entry):
    entry = log_entry(server, "serving")
    assert entry["address"] == server.target
    assert entry["model"] == student.metadata.model_id
    assert entry["providers"] == ["CPUExecutionProvider"]
    assert entry["device"] == "CPU"
    assert entry["level"] == "info"


def test_address_by_environment_and_flag(monkeypatch, free_port, make_line, request_of):
    """VOICECOHORT_* is read by the process; what is also a flag is overruled by it."""
    monkeypatch.setenv("VOICECOHORT_LISTEN", "127.0.0.1:1")  # local_server's flag wins
    monkeypatch.setenv("VOICECOHORT_UPDATE_SECONDS", "0.25")
    monkeypatch.setenv("VOICECOHORT_MAX_CHUNK_SECONDS", "3")
    monkeypatch.setenv("VOICECOHORT_IDLE_TIMEOUT", "77")
    with local_server("--listen", f"127.0.0.1:{free_port}", "--max-chunk-seconds", "4") as server:
        assert server.target == f"127.0.0.1:{free_port}"
        (started,) = make_line(server.target).run(request_of.config()).of("started")
    assert server.process.returncode == 0
    assert started.update_interval.ToMilliseconds() == 250
    assert started.limits.max_chunk.seconds == 4
    assert started.limits.idle_timeout.seconds == 77


# --- how gRPC polls ---

POLLING = "-event_engine_listener"
AT_FIRST_GRPC = """
import os, sys
class Watch:
    seen = "never"
    def find_spec(self, name, path, target=None):
        if name == "grpc":
            Watch.seen = os.environ.get("GRPC_EXPERIMENTS")
sys.meta_path.insert(0, Watch())
import {module}
print(Watch.seen, os.environ.get("GRPC_EXPERIMENTS"), "grpc" in sys.modules)
"""


@pytest.mark.parametrize(
    ("module", "before", "output"),
    [
        ("streamer.serve", None, f"{POLLING} {POLLING} True"),
        ("streamer.serve", "-tcp_frame_size_tuning", "-tcp_frame_size_tuning " * 2 + "True"),
        ("streamer.serve", "", "  True"),
        ("streamer.client", None, "None None True"),
        ("streamer.process.environment", None, f"never {POLLING} False"),
    ],
)
def test_polling_is_set_before_grpc_is_imported(module, before, output, monkeypatch):
    """And only for a server whose operator has not settled it."""
    monkeypatch.delenv("GRPC_EXPERIMENTS", raising=False)
    if before is not None:
        monkeypatch.setenv("GRPC_EXPERIMENTS", before)
    done = subprocess.run(
        [sys.executable, "-c", AT_FIRST_GRPC.format(module=module)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert (done.stdout, done.stderr) == (f"{output}\n", "")


def test_grpc_accepts_the_experiment(monkeypatch):
    """A release without it would complain on standard error, where only JSON lines belong."""
    monkeypatch.delenv("GRPC_EXPERIMENTS", raising=False)
    done = serve("--check")
    assert done.returncode == 0
    assert [json.loads(line)["level"] for line in done.stderr.splitlines()] == ["info"] * 3


# --- stopping ---


@pytest.fixture(scope="module")
def speech(voices):
    return encode(voices.caller[5 * RATE : 9 * RATE], Encoding.MULAW)


def chunks(request_of, data):
    return [
        request_of.audio(number, data[start : start + 800])
        for number, start in enumerate(range(0, len(data), 800), start=1)
    ]


def wait_until(condition, seconds=10):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_running_call_ends_well_after_the_signal(
    number, make_line, request_of, speech, log_entry, line, assert_same_prediction
):
    audio = chunks(request_of, speech)
    quiet = line.run(request_of.config(), *audio).finals[0]
    with local_server("--provider", "cpu") as server:
        here = make_line(server.target)
        call = here.open(request_of.config(call_id="running"), *audio[:10])
        assert call.read().HasField("started")
        assert health(here.channel) == SERVING
        server.process.send_signal(number)
        assert log_entry(server, "draining")["calls"] == 1
        for service in ("", SERVICE):
            wait_until(lambda service=service: health(here.channel, service) == NOT_SERVING)
        refused = here.run(request_of.config(), *audio)
        assert refused.code is Code.UNAVAILABLE
        assert refused.details == "the server is shutting down; call again, another one may answer"
        assert refused.responses == []
        assert refused.retry_seconds == 1.0
        call.send(*audio[10:])
        call.half_close()
        outcome = call.outcome()
        assert (outcome.code, outcome.details) == (Code.OK, "")
        assert_same_prediction(outcome.finals[0], quiet)
        assert server.process.wait(10) == 0
        assert log_entry(server, "call_ended", call_id="running")["status"] == "OK"
        assert log_entry(server, "stopped")


def test_running_call_ends_at_the_drain_deadline(
    make_line, request_of, speech, log_entry, line, assert_same_prediction
):
    audio = chunks(request_of, speech)
    quiet = line.run(request_of.config(), *audio).finals[0]
    with local_server("--provider", "cpu", "--drain-seconds", "1") as server:
        here = make_line(server.target)
        call = here.open(request_of.config(call_id="endless"), *audio)
        call.wait_for(lambda r: r.prediction.sequence == 40)
        results = []
        reader = threading.Thread(target=lambda: results.append(call.outcome()))
        reader.start()
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        reader.join(20)
        waited = time.monotonic() - began
        assert server.process.wait(10) == 0
        log_entry(server, "drain_deadline", calls=1)
        log_entry(server, "call_ended", call_id="endless")
    (outcome,) = results
    assert 1.0 <= waited < 5.0
    assert outcome.code is Code.UNAVAILABLE
    assert outcome.details == "the server is shutting down; call again, another one may answer"
    assert outcome.retry_seconds == 1.0
    assert_same_prediction(outcome.finals[0], quiet)
    assert outcome.responses[-1].prediction.final


def test_idle_server_stops_at_once():
    """Nobody is calling: there is nothing to wait for, whatever the drain time."""
    with local_server("--provider", "cpu", "--drain-seconds", "600") as server:
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 0
        assert time.monotonic() - began < 5
    assert [entry["event"] for entry in server.log] == ["serving", "draining", "stopped"]


def test_stream_without_config_does_not_delay_stop(make_line, log_entry):
    """It is no call yet: it has nothing to lose, and learns why it ends."""
    with local_server("--provider", "cpu", "--drain-seconds", "0.2") as server:
        here = make_line(server.target)
        grpc.channel_ready_future(here.channel).result(10)
        mute = here.open()
        results = []
        reader = threading.Thread(target=lambda: results.append(mute.outcome()))
        reader.start()
        time.sleep(0.3)
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert log_entry(server, "draining")["calls"] == 1
        assert server.process.wait(15) == 0
        waited = time.monotonic() - began
        reader.join(10)
    (outcome,) = results
    assert outcome.code is Code.UNAVAILABLE
    assert waited < 3.0
