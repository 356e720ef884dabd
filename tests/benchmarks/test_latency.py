"""latency.py runs and loses no call; its figures are evaluated where they are recorded."""

import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest

from streamer.process.local_server import local_server
from streamer.rpc import voicecohort_pb2 as pb
from streamer.rpc import voicecohort_pb2_grpc as pb_grpc

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    """The generator's module."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    from load import generator as module  # noqa: PLC0415 - benchmarks are no package

    return module


def run(tmp_path, script, *arguments):
    out = tmp_path / "out.json"
    command = [sys.executable, str(BENCHMARKS / script), *arguments, "--json", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return done, json.loads(out.read_text())


def test_live_calls_are_paced_and_all_end_with_a_prediction(tmp_path):
    picture = tmp_path / "latency.png"
    arguments = ["--calls", "5", "--starting", "1.25", "--seconds", "2", "--picture", str(picture)]
    done, result = run(tmp_path, "latency.py", *arguments)
    assert done.returncode == 0, done.stderr
    assert (result["calls"], result["lost"], result["errors"]) == (5, 0, [])
    # A prediction each 0.5 s: while all start, two seconds of warming up, two that are counted.
    each = 2 * (5 / 1.25 + 4)
    assert 5 * (each - 1) <= result["predictions"] <= 5 * each
    assert 1.5 <= result["predictions_per_call_s"] <= 2.5
    assert 0 < result["p50_ms"] <= result["p90_ms"] <= result["p99_ms"] <= result["max_ms"]
    assert result["p99_ms"] <= result["p99_9_ms"] <= result["max_ms"]
    assert 0.1 < result["speech_share"] < 0.9
    assert result["server_cpu_ms_per_call_s"] > 0
    assert result["generator_cpu_ms_per_call_s"] > 0
    assert result["provider"]
    assert result["device"]
    assert picture.stat().st_size > 1000


def test_the_gpu_is_named_before_the_processor(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import latency  # noqa: PLC0415 - benchmarks are no package

    assert latency.device_name("NVIDIA X") == f"NVIDIA X; {latency.device_name()}"
    assert "NVIDIA" not in latency.device_name("CPU")


def test_log_fields_of_workers_are_merged(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import latency  # noqa: PLC0415

    worker = {"event": "worker_serving", "device": "NVIDIA X", "address": "a"}
    server = SimpleNamespace(log=[worker, worker, {"event": "serving", "address": "b"}])
    assert latency.serving(server) == {"event": "serving", "device": "NVIDIA X", "address": "b"}
    assert latency.device_of(server) == latency.device_name("NVIDIA X")
    assert latency.serving(None) == {}
    assert latency.device_of(None) == latency.device_name()


@pytest.mark.parametrize("starting", ["0", "nan"])
def test_calls_that_never_start_are_refused(starting):
    command = [sys.executable, str(BENCHMARKS / "latency.py"), f"--starting={starting}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert f"--starting: calls in a second, more than 0, got {starting}" in done.stderr


def test_a_call_to_no_server_counts_as_lost(tmp_path):
    done, result = run(
        tmp_path, "latency.py", "--calls", "2", "--seconds", "1", "--target", "127.0.0.1:1"
    )
    assert done.returncode == 1
    assert (result["lost"], result["refused"]) == (2, 0)
    assert result["errors"][0].startswith("UNAVAILABLE")
    assert result["p99_ms"] is None, "nothing was measured"


@pytest.mark.parametrize("trunk", [(), ("--trunk-ms", "10")], ids=["streams", "a trunk"])
def test_a_refused_call_is_not_lost(tmp_path, trunk):
    with local_server("--provider", "cpu", "--max-calls", "2") as server:
        command = ("latency.py", "--calls", "5", "--seconds", "1", "--target", server.target)
        done, result = run(tmp_path, *command, *trunk)
    assert done.returncode == 0, done.stderr
    assert (result["refused"], result["lost"], result["errors"]) == (3, 0, [])
    assert result["server_cpu_ms_per_call_s"] is None
    assert result["trunk_ms"] == (10.0 if trunk else 0.0)
    assert result["p50_ms"] > 0


class LateServer(pb_grpc.ClassifierServiceServicer):
    """Notes when messages arrive; answers each fifth of them ``late`` seconds after."""

    def __init__(self, late):
        self.late = late
        self.arrived = []

    def StreamClassify(self, request_iterator, context):  # noqa: ARG002, N802 - gRPC's
        answers = []
        done = threading.Event()

        def read():
            for request in request_iterator:
                self.arrived.append((request.audio.sequence, time.monotonic()))
                if request.audio.sequence and request.audio.sequence % 5 == 0:
                    answers.append((time.monotonic() + self.late, request.audio.sequence))
            done.set()

        threading.Thread(target=read, daemon=True).start()
        yield pb.StreamClassifyResponse(started=pb.Started())
        while not done.is_set() or answers:
            if answers and time.monotonic() >= answers[0][0]:
                prediction = pb.Prediction(sequence=answers.pop(0)[1])
                yield pb.StreamClassifyResponse(prediction=prediction)
            time.sleep(0.002)
        yield pb.StreamClassifyResponse(prediction=pb.Prediction(sequence=20, final=True))


def test_a_late_answer_delays_no_chunk_and_counts_in_full(load):
    servicer = LateServer(late=0.8)
    server = grpc.server(ThreadPoolExecutor(4))
    pb_grpc.add_ClassifierServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    begin = time.monotonic() + 0.2
    plan = load.Plan(
        f"127.0.0.1:{port}",
        calls=1,
        seconds=2.0,
        window=(0.0, 3.0),
        numbers=range(1),
        begin=begin,
        spread=0.0,
    )
    observed = load.generate(plan)
    server.stop(None)
    assert observed.finals == 1
    assert [sequence for sequence, _ in servicer.arrived] == list(range(21))
    for sequence, at in servicer.arrived[1:]:
        assert at >= begin + 0.1 * sequence - 0.002, "no chunk leaves before its audio has ended"
        assert at < begin + 0.1 * sequence + 0.4, "none waits for the answer to an earlier one"
    assert observed.due == pytest.approx([0.5, 1.0, 1.5, 2.0], abs=0.002)
    assert min(observed.latency) >= 0.799


@pytest.mark.parametrize(
    ("chunk_ms", "numbers"), [(100, [5, 10]), (200, [3, 5, 8, 10]), (20, [25, 50]), (60, [9, 17])]
)
def test_a_prediction_is_due_for_the_first_chunk_past_each_half_second(load, chunk_ms, numbers):
    assert [n for n in range(1, numbers[-1] + 1) if load.prediction_due(n, chunk_ms)] == numbers


def test_steps_are_timed_on_every_device(tmp_path):
    done, result = run(tmp_path, "latency.py", "--steps", "1", "4")
    assert done.returncode == 0, done.stderr
    float32, eight_bits, *gpu = result["ways"]
    assert (float32["device"], eight_bits["device"]) == ("CPU", "CPU")
    assert bool(gpu) is ("no GPU" not in done.stderr)
    for way in result["ways"]:
        assert [step["blocks"] for step in way["steps"]] == [1, 4]
        for step in way["steps"]:
            assert 0 < step["ms"] < 10_000
            assert step["cpu_ms"] > 0
            assert step["blocks_per_s"] * step["ms"] / 1000 == pytest.approx(
                step["blocks"], abs=0.1
            )
