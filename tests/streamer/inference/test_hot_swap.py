"""The model of a running server exchanged under load; a server whose student is given up."""

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

WAIT = 30.0
Code = grpc.StatusCode


class File:
    """A model file that is replaced as an operator should: in one step."""

    def __init__(self, path):
        self.path = path
        self._content = CPU_MODEL.read_bytes()
        self.put(self._content)

    def put(self, content):
        fresh = self.path.with_suffix(".new")
        fresh.write_bytes(content)
        fresh.replace(self.path)

    def model(self, model_id, **labels):
        """The shipped student under another name, and with other names for its classes."""
        model = onnx.load_from_string(self._content)
        (entry,) = model.metadata_props
        meta = json.loads(entry.value)
        entry.value = json.dumps(meta | {"model_id": model_id, "labels": meta["labels"] | labels})
        return model.SerializeToString()


@contextmanager
def serving(tmp_path, *flags):
    file = File(tmp_path / "student.onnx")
    with local_server(
        *("--model", str(file.path), "--provider", "cpu"),
        *("--metrics-listen", "127.0.0.1:0", *flags),
    ) as server:

        def told(event):
            return [entry for entry in list(server.log) if entry["event"] == event]

        def reload(event, count=1):
            """Send SIGHUP and wait until the log has ``count`` more of these."""
            before = len(told(event))
            server.process.send_signal(signal.SIGHUP)
            until = time.monotonic() + WAIT
            while len(told(event)) < before + count:
                assert time.monotonic() < until, [e["event"] for e in server.log][-5:]
                time.sleep(0.01)
            return told(event)[-1]

        yield SimpleNamespace(server=server, file=file, told=told, reload=reload)


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


def test_model_is_swapped_under_load_and_no_call_is_disturbed(
    tmp_path, make_line, request_of, chunks, quiet, assert_same_prediction, log_entry
):
    with serving(tmp_path) as s:
        student_id = s.told("serving")[0]["model"]
        line, calls = make_line(s.server.target), []

        def begin(count, model_id):
            for _ in range(count):
                call = line.open(request_of.config())
                assert call.read().started.model.model_id == model_id
                calls.append((call, iter(chunks)))

        def talk(rounds):
            """All open calls send a chunk each, faster than life."""
            for _ in range(rounds):
                for call, audio in calls:
                    call.send(*[chunk for chunk in [next(audio, None)] if chunk is not None])
                time.sleep(0.03)

        begin(6, student_id)
        talk(10)
        s.file.put(s.file.model("swapped-1"))
        s.server.process.send_signal(signal.SIGHUP)
        talk(10)  # while it loads
        changed = log_entry(s.server, "model_changed")
        assert (changed["before"], changed["after"]) == (student_id, "swapped-1")
        assert changed["calls_on_older"] == 6
        begin(6, "swapped-1")
        talk(5)
        s.file.put(b"no model")
        kept = s.reload("model_reload_failed")
        assert kept["model"] == "swapped-1"
        assert "cannot be loaded" in kept["reason"]
        s.file.put(s.file.model("swapped-1")[:5000])
        s.reload("model_reload_failed")
        s.file.path.unlink()
        assert "not found" in s.reload("model_reload_failed")["reason"]
        begin(2, "swapped-1")
        talk(5)
        s.file.put(s.file.model("swapped-1"))
        assert s.reload("model_unchanged")["model"] == "swapped-1"
        assert not s.told("model_retired"), "it still has calls"
        talk(len(chunks))
        for call, _ in calls:
            call.half_close()
        for call, _ in calls:
            outcome = call.outcome()
            assert (outcome.code, outcome.details) == (Code.OK, "")
            assert_same_prediction(outcome.finals[0], quiet)
        assert log_entry(s.server, "model_retired")["model"] == student_id
        samples = scraped(s.server)
        assert ("model_info", "CPUExecutionProvider", "swapped-1") in samples
        assert ("model_info", "CPUExecutionProvider", student_id) not in samples
        assert samples["model_swaps_total", "changed"] == 1
        assert samples["model_swaps_total", "failed"] == 3
        assert samples["model_swaps_total", "unchanged"] == 1
    assert s.server.process.returncode == 0


def test_new_names_of_classes_are_told_and_counted_beside_the_old(
    tmp_path, make_line, request_of, chunks
):
    with serving(tmp_path) as s:
        line = make_line(s.server.target)
        old = line.run(request_of.config(), *chunks)
        s.file.put(s.file.model("renamed", gender=["woman", "man"]))
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


def test_many_swaps_leave_neither_threads_nor_memory(
    tmp_path, make_line, request_of, chunks, quiet, assert_same_prediction
):
    with serving(tmp_path) as s:
        line = make_line(s.server.target)
        process = psutil.Process(s.server.process.pid)
        call = line.open(request_of.config(), *chunks[:20])  # on the first model throughout
        assert call.read().HasField("started")

        def swap(number):
            s.file.put(s.file.model(f"swapped-{number}"))
            assert s.reload("model_changed")["after"] == f"swapped-{number}"
            assert line.run(request_of.config(), *chunks).code is Code.OK

        def retired(count):
            until = time.monotonic() + WAIT
            while len(s.told("model_retired")) < count:
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
    with local_server_of_workers(tmp_path) as s:
        s.file.put(s.file.model("swapped-1"))
        s.reload("model_changed", count=2)
        assert {e["worker"] for e in s.told("model_changed")} == {0, 1}
        for _ in range(4):
            own = make_line(s.server.target, ("grpc.use_local_subchannel_pool", 1))
            (started,) = own.run(request_of.config()).of("started")
            assert started.model.model_id == "swapped-1"
    assert s.server.process.returncode == 0


def local_server_of_workers(tmp_path):
    return serving(tmp_path, "--workers", "2")


STICKING = """
import os, sys, time
import streamer.serve
from streamer.inference.model import OnnxModel
step = OnnxModel.step
def sticking(*args):
    if os.path.exists(os.environ["STICK"]):
        time.sleep(1000)
    return step(*args)
OnnxModel.step = sticking
sys.exit(streamer.serve.main())
"""


@pytest.mark.parametrize("exits", [True, False])
def test_student_that_sticks_is_told_by_health_and_given_up(
    tmp_path, make_line, request_of, chunks, log_entry, exits
):
    (tmp_path / "server.py").write_text(STICKING)
    stick = tmp_path / "stick"
    with local_server(
        *("--provider", "cpu", "--inference-timeout", "0.3", "--drain-seconds", "0"),
        *("--unhealthy-exit-seconds", "1.5" if exits else "0"),
        command=(str(tmp_path / "server.py"),),
        environment={"STICK": str(stick), "PYTHONPATH": str(Path.cwd())},
    ) as server:
        line = make_line(server.target)
        health = health_pb2_grpc.HealthStub(line.channel)
        states = health.Watch(health_pb2.HealthCheckRequest(), timeout=WAIT)
        assert next(states).status == health_pb2.HealthCheckResponse.SERVING
        call, idle = line.open(request_of.config()), line.open(request_of.config())
        for each in (call, idle):
            assert each.read().HasField("started")
        stick.touch()
        call.send(*chunks)
        assert next(states).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert call.outcome().code is Code.UNAVAILABLE
        refused = line.run(request_of.config())
        assert (refused.code, refused.retry_seconds) == (Code.UNAVAILABLE, 1.0)
        assert refused.details.startswith("the server is not healthy: ")
        assert log_entry(server, "unhealthy")["reason"] == "the step is stuck"
        if exits:
            assert idle.outcome().code is Code.UNAVAILABLE
            assert server.process.wait(WAIT) == UNHEALTHY
            assert log_entry(server, "unhealthy_exit")["seconds"] >= 1.5
        else:
            time.sleep(2)
            assert server.process.poll() is None
            stick.unlink()
            idle.cancel()
