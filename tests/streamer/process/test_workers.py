"""Several processes on one port: who gets the calls, and what happens when one of them dies."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from streamer.process.local_server import local_server

OWN_CONNECTION = ("grpc.use_local_subchannel_pool", 1)
TWO = ("--workers", "2", "--provider", "cpu")
Code = grpc.StatusCode

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds pids in /proc")


@pytest.fixture
def call_each(make_line, request_of, log_entry):
    """Open calls, each on a connection of its own, until every worker has one; by worker."""

    def connect(server, *audio):
        calls = {}
        for attempt in range(60):
            if len(calls) == 2:
                return calls
            name = f"{server.process.pid}-{attempt}"
            here = make_line(server.target, OWN_CONNECTION)
            call = here.open(request_of.config(call_id=name), *audio)
            assert call.read().HasField("started")
            worker = log_entry(server, "call_started", call_id=name)["worker"]
            if calls.setdefault(worker, call) is not call:
                call.cancel()
                here.channel.close()
        raise AssertionError(f"60 connections, all to worker {set(calls)}")

    return connect


def workers_of(parent):
    """Process id by worker."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):  # gone, or not yet itself
            above = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            if int(above) == parent.pid:
                words = (folder / "cmdline").read_bytes().split(b"\0")
                found[int(words[words.index(b"worker") + 1])] = int(folder.name)
    return found


def events(server, name):
    return [entry for entry in server.log if entry["event"] == name]


def wait_until(condition, seconds=10):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def gone(pid):
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def finish(call, audio):
    call.send(*audio)
    call.half_close()
    return call.outcome()


def test_calls_on_every_worker_are_drained(
    call_each, chunks, quiet, log_entry, assert_same_prediction, free_port
):
    with local_server(*TWO, "--metrics-listen", f"127.0.0.1:{free_port}") as server:
        started = events(server, "worker_serving")
        assert sorted(entry["worker"] for entry in started) == [0, 1]
        assert {entry["address"] for entry in started} == {server.target}
        assert log_entry(server, "serving", workers=2).get("worker") is None
        assert server.log[-1]["event"] == "serving"
        calls = call_each(server, *chunks[:10])
        for worker in (0, 1):
            address = f"http://127.0.0.1:{free_port + worker}/metrics"
            assert log_entry(server, "worker_serving", worker=worker)["metrics"] == address
            with urllib.request.urlopen(address, timeout=10) as page:
                assert re.search(r"^voicecohort_calls_open 1\.0$", page.read().decode(), re.M)
        server.process.send_signal(signal.SIGTERM)
        for worker, call in calls.items():
            log_entry(server, "draining", worker=worker)
            outcome = finish(call, chunks[10:])
            assert (outcome.code, outcome.details) == (Code.OK, "")
            assert_same_prediction(outcome.finals[0], quiet)
        assert server.process.wait(10) == 0
    assert server.log[-1]["event"] == "stopped"
    assert {entry.get("worker") for entry in events(server, "stopped")} == {0, 1, None}
    assert not events(server, "worker_died")


def test_dead_worker_is_replaced_and_dead_parent_is_noticed(
    call_each, chunks, quiet, log_entry, assert_same_prediction
):
    with local_server(*TWO, "--drain-seconds", "20") as server:
        calls = call_each(server, *chunks[:10])
        before = workers_of(server.process)
        os.kill(before[1], signal.SIGKILL)
        assert calls[1].outcome().code is Code.UNAVAILABLE
        assert log_entry(server, "worker_died")["exit_code"] == -signal.SIGKILL
        wait_until(lambda: len(events(server, "worker_serving")) == 3)
        after = workers_of(server.process)
        assert after[0] == before[0]
        assert after[1] != before[1]
        outcome = finish(calls[0], chunks[10:])
        assert (outcome.code, outcome.details) == (Code.OK, "")
        assert_same_prediction(outcome.finals[0], quiet)

        calls = call_each(server, *chunks[:10])
        server.process.kill()
        for worker, call in calls.items():
            log_entry(server, "draining", worker=worker)
            outcome = finish(call, chunks[10:])
            assert outcome.code is Code.OK
            assert_same_prediction(outcome.finals[0], quiet)
        wait_until(lambda: all(gone(pid) for pid in after.values()))
    assert [entry["worker"] for entry in events(server, "worker_died")] == [1]
    assert len(events(server, "serving")) == 1


def test_worker_that_hangs_is_killed_and_replaced(
    call_each, chunks, quiet, log_entry, assert_same_prediction
):
    """A stopped worker sends no heartbeat; the other worker is not affected."""
    with local_server(*TWO, "--worker-heartbeat-timeout", "3") as server:
        calls = call_each(server, *chunks[:10])
        before = workers_of(server.process)
        os.kill(before[1], signal.SIGSTOP)
        assert log_entry(server, "worker_unresponsive")["worker"] == 1
        assert log_entry(server, "worker_died", worker=1)["exit_code"] == -signal.SIGKILL
        assert calls[1].outcome().code is Code.UNAVAILABLE
        wait_until(lambda: len(events(server, "worker_serving")) == 3)
        after = workers_of(server.process)
        assert after[0] == before[0]
        assert after[1] != before[1]
        outcome = finish(calls[0], chunks[10:])
        assert (outcome.code, outcome.details) == (Code.OK, "")
        assert_same_prediction(outcome.finals[0], quiet)
    assert [entry["worker"] for entry in events(server, "worker_unresponsive")] == [1]
    assert server.process.returncode == 0


CRASHING = """
import os, pathlib, sys
if "worker" in sys.orig_argv and sys.orig_argv[-1] == "1":
    tried = pathlib.Path(os.environ["TRIED"])
    tried.write_text(tried.read_text() + "x")
    if len(tried.read_text()) <= 2:
        os._exit(7)
"""


def test_worker_that_crashes_at_start_is_retried(tmp_path, log_entry):
    (tmp_path / "sitecustomize.py").write_text(CRASHING)
    tried = tmp_path / "tried"
    tried.write_text("")
    environment = {"PYTHONPATH": str(tmp_path), "TRIED": str(tried)}
    with local_server(*TWO, environment=environment) as server:
        assert log_entry(server, "serving", workers=2)
    failures = events(server, "worker_not_started")
    assert [(e["worker"], e["reason"], e["attempts"], e["retry_seconds"]) for e in failures] == [
        (1, "exit code 7", 1, 0.5),
        (1, "exit code 7", 2, 1.0),
    ]
    assert not events(server, "worker_died")
    assert server.process.returncode == 0


def serve(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "streamer.serve", "--listen", "127.0.0.1:0", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_workers_that_cannot_start_log_one_line(tmp_path):
    with socket.socket() as taken, ThreadPoolExecutor(2) as pool:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        absent = tmp_path / "absent.onnx"
        runs = {
            f"model file {absent}: not found": ["--model", absent],
            f"cannot listen on {address}: Address already in use": ["--listen", address],
        }
        pending = {line: pool.submit(serve, *TWO, *flags) for line, flags in runs.items()}
        for line, run in pending.items():
            done = run.result()
            assert (done.returncode, done.stdout, done.stderr) == (2, "", f"{line}\n")


def test_port_of_starting_workers_is_reserved(free_port):
    address = f"127.0.0.1:{free_port}"
    first = subprocess.Popen(
        [sys.executable, "-m", "streamer.serve", "--listen", address, *TWO],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(lambda: workers_of(first))
        with socket.socket() as second:
            second.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with pytest.raises(OSError, match="Address already in use"):
                second.bind(("127.0.0.1", free_port))
    finally:
        first.terminate()
        output = first.communicate(timeout=20)[1]
    assert first.returncode == 0
    assert [json.loads(line)["event"] for line in output.splitlines()][-1] == "stopped"
