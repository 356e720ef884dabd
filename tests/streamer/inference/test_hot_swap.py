"""The model of a running server replaced under load; a server that exits unhealthy."""

import json
import signal
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import grpc
import onnx
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from streamer.inference.model import CPU_MODEL
from streamer.process.local_server import local_server
from streamer.process.workers import UNHEALTHY

WAIT_SECONDS = 30.0
Code = grpc.StatusCode


class ReplacedFile:
    """A model file that is replaced as an operator should: by a rename."""

    def __init__(self, path):
        self.path = path
        self._content = CPU_MODEL.read_bytes()
        self.replace(self._content)

    def replace(self, content):
        fresh = self.path.with_suffix(".new")
        fresh.write_bytes(content)
        fresh.replace(self.path)

    def model(self, model_id, **labels):
        """The shipped model with another id and other names of classes."""
        model = onnx.load_from_string(self._content)
        (entry,) = model.metadata_props
        meta = json.loads(entry.value)
        entry.value = json.dumps(meta | {"model_id": model_id, "labels": meta["labels"] | labels})
        return model.SerializeToString()


@contextmanager
def serving(tmp_path, *flags):
    file = ReplacedFile(tmp_path / "student.onnx")
    with local_server(
        *("--model", str(file.path), "--provider", "cpu"),
        *("--metrics-listen", "127.0.0.1:0", *flags),
    ) as server:

        def logged(event):
            return [entry for entry in list(server.log) if entry["event"] == event]

        def reload(event, count=1):
            """Send SIGHUP; return the last of ``count`` more such events in the log."""
            before = len(logged(event))
            server.process.send_signal(signal.SIGHUP)
            until = time.monotonic() + WAIT_SECONDS
            while len(logged(event)) < before + count:
                assert time.monotonic() < until, [e["event"] for e in server.log][-5:]
                time.sleep(0.01)
            return logged(event)[-1]

        yield SimpleNamespace(server=server, file=file, logged=logged, reload=reload)


def scraped(server):
    (address,) = (line["metrics"] for line in server.log if line.get("event") == "serving")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(address, timeout=10) as answer:
        text = answer.read().decode()
    return {
        (sample.name.removeprefix("voicecohort_"), *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_swap_under_load_disturbs_no_call(
    tmp_path, make_line, request_of, chunks, quiet, assert_same_prediction, log_entry
):
    with serving(tmp_path) as s:
        shipped_id = s.logged("serving")[0]["model"]
        line, calls = make_line(s.server.target), []

        def open_calls(count, model_id):
            for _ in range(count):
                call = line.open(request_of.config())
                assert call.read().started.model.model_id == model_id
                calls.append((call, iter(chunks)))

        def send(rounds):
            """Send a chunk of each open call, faster than real time."""
            for _ in range(rounds):
                for call, audio in calls:
                    call.send(*[chunk for chunk in [next(audio, None)] if chunk is not None])
                time.sleep(0.03)

        open_calls(6, shipped_id)
        send(10)
        s.file.replace(s.file.model("swapped-1"))
        s.server.process.send_signal(signal.SIGHUP)
        send(10)  # while it loads
        changed = log_entry(s.server, "model_changed")
        assert (changed["before"], changed["after"]) == (shipped_id, "swapped-1")
        assert changed["calls_on_older"] == 6
        open_calls(6, "swapped-1")
        send(5)
        s.file.replace(b"no model")
        failed = s.reload("model_reload_failed")
        assert failed["model"] == "swapped-1"
        assert "cannot be loaded" in failed["reason"]
        s.file.replace(s.file.model("swapped-1")[:5000])
        s.reload("model_reload_failed")
        s.file.path.unlink()
        assert "not found" in s.reload("model_reload_failed")["reason"]
        open_calls(2, "swapped-1")
        send(5)
        s.file.replace(s.file.model("swapped-1"))
        assert s.reload("model_unchanged")["model"] == "swapped-1"
        assert not s.logged("model_retired"), "calls still use it"
        send(len(chunks))
        for call, _ in calls:
            call.half_close()
        for call, _ in calls:
            outcome = call.outcome()
            assert (outcome.code, outcome.details) == (Code.OK, "")
            assert_same_prediction(outcome.finals[0], quiet)
        assert log_entry(s.server, "model_retired")["model"] == shipped_id
        samples = scraped(s.server)
        assert ("model_info", "CPUExecutionProvider", "swapped-1") in samples
        assert ("model_info", "CPUExecutionProvider", shipped_id) not in samples
        assert samples["model_swaps_total", "changed"] == 1
        assert samples["model_swaps_total", "failed"] == 3
        assert samples["model_swaps_total", "unchanged"] == 1
    assert s.server.process.returncode == 0


def test_new_class_names_are_sent_and_counted(tmp_path, make_line, request_of, chunks):
    with serving(tmp_path) as s:
        line = make_line(s.server.target)
        old = line.run(request_of.config(), *chunks)
        s.file.replace(s.file.model("renamed", gender=["woman", "man"]))
        s.reload("model_changed")
        new = line.run(request_of.config(), *chunks)
        (started,) = new.of("started")
        assert list(started.gender.labels) == ["woman", "man"]
        samples = scraped(s.server)
        labels = [outcome.finals[0].gender.label for outcome in (old, new)]
        assert labels[0] in {"female", "male"}
        assert labels[1] in {"woman", "man"}
        for label in labels:
            assert samples["decisions_total", *sorted(("gender", label))] == 1
    assert s.server.process.returncode == 0


def test_many_swaps_leak_neither_threads_nor_memory(
    tmp_path, make_line, request_of, chunks, quiet, assert_same_prediction
):
    with serving(tmp_path) as s:
        line = make_line(s.server.target)
        process = psutil.Process(s.server.process.pid)
        call = line.open(request_of.config(), *chunks[:20])  # on the first model throughout
        assert call.read().HasField("started")

        def swap(number):
            s.file.replace(s.file.model(f"swapped-{number}"))
            assert s.reload("model_changed")["after"] == f"swapped-{number}"
            assert line.run(request_of.config(), *chunks).code is Code.OK

        def retired(count):
            until = time.monotonic() + WAIT_SECONDS
            while len(s.logged("model_retired")) < count:
                assert time.monotonic() < until
                time.sleep(0.02)

        for number in range(5):
            swap(number)
        retired(4)
        threads, memory = process.num_threads(), process.memory_info().rss
        for number in range(5, 25):
            swap(number)
        retired(24)
        grown = process.memory_info().rss - memory
        assert process.num_threads() == threads
        assert grown < 24 << 20, f"{grown / 2**20:.1f} MB by 20 swaps"
        call.send(*chunks[20:])
        call.half_close()
        outcome = call.outcome()
        assert outcome.code is Code.OK
        assert_same_prediction(outcome.finals[0], quiet)


def test_every_worker_swaps(tmp_path, make_line, request_of):
    with serving(tmp_path, "--workers", "2") as s:
        s.file.replace(s.file.model("swapped-1"))
        s.reload("model_changed", count=2)
        assert {e["worker"] for e in s.logged("model_changed")} == {0, 1}
        for _ in range(4):
            own = make_line(s.server.target, ("grpc.use_local_subchannel_pool", 1))
            (started,) = own.run(request_of.config()).of("started")
            assert started.model.model_id == "swapped-1"
    assert s.server.process.returncode == 0


STUCK_SERVER = """
import os, sys, time
import streamer.serve
from streamer.inference.model import OnnxModel
step = OnnxModel.step
def stuck_step(*args):
    if os.path.exists(os.environ["STUCK_FLAG"]):
        time.sleep(1000)
    return step(*args)
OnnxModel.step = stuck_step
sys.exit(streamer.serve.main())
"""


@pytest.mark.parametrize("exits", [True, False])
def test_stuck_model_makes_the_server_exit(
    tmp_path, make_line, request_of, chunks, log_entry, exits
):
    (tmp_path / "server.py").write_text(STUCK_SERVER)
    flag = tmp_path / "stuck"
    with local_server(
        *("--provider", "cpu", "--inference-timeout", "0.3", "--drain-seconds", "0"),
        *("--unhealthy-exit-seconds", "1.5" if exits else "0"),
        command=(str(tmp_path / "server.py"),),
        environment={"STUCK_FLAG": str(flag), "PYTHONPATH": str(Path.cwd())},
    ) as server:
        line = make_line(server.target)
        health = health_pb2_grpc.HealthStub(line.channel)
        states = health.Watch(health_pb2.HealthCheckRequest(), timeout=WAIT_SECONDS)
        assert next(states).status == health_pb2.HealthCheckResponse.SERVING
        call, idle = line.open(request_of.config()), line.open(request_of.config())
        for each in (call, idle):
            assert each.read().HasField("started")
        flag.touch()
        call.send(*chunks)
        assert next(states).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert call.outcome().code is Code.UNAVAILABLE
        refused = line.run(request_of.config())
        assert (refused.code, refused.retry_seconds) == (Code.UNAVAILABLE, 1.0)
        assert refused.details.startswith("the server is not healthy: ")
        assert log_entry(server, "unhealthy")["reason"] == "the step is stuck"
        if exits:
            assert idle.outcome().code is Code.UNAVAILABLE
            assert server.process.wait(WAIT_SECONDS) == UNHEALTHY
            assert log_entry(server, "unhealthy_exit")["seconds"] >= 1.5
        else:
            time.sleep(2)
            assert server.process.poll() is None
            flag.unlink()
            idle.cancel()
