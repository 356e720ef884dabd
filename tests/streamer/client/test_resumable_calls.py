"""Resumable calls over gRPC: to servers that end streams by a script, and to real ones, killed."""

import asyncio
import contextlib
import io
import json
import signal
import subprocess
import sys
import threading

import grpc
import numpy as np
import pytest
import soundfile
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2
from rich.console import Console

from streamer.audio.codec import Encoding, encode
from streamer.client import Client, Prediction, SpeechEvent, cli
from streamer.client.live_view import CallView
from streamer.client.retry import retry_delay
from streamer.process.local_server import local_server
from streamer.rpc import voicecohort_pb2_grpc as pb_grpc
from streamer.security.__main__ import key_entry
from streamer.transport.converters import duration

Code = grpc.StatusCode
RATE = 8000
CHUNKS = [bytes([n, 2 * n]) for n in range(1, 21)]


def with_retry(code, details, seconds):
    """Trailers of a refusal with a retry delay."""
    info = AnyMessage()
    info.Pack(error_details_pb2.RetryInfo(retry_delay=duration(seconds)))
    status = status_pb2.Status(code=code.value[0], message=details, details=[info])
    return (("grpc-status-details-bin", status.SerializeToString()),)


class Servicer(pb_grpc.ClassifierServiceServicer):
    """Hands each stream to a replica that ends it after so many requests with a status.

    Args:
        replica: makes one.
        script: requests, code, details, trailers of the first streams.
    """

    def __init__(self, replica, script=()):
        self._replica = replica
        self._script = list(script)
        self.configs = []
        self.replicas = []

    async def StreamClassify(self, _, context):  # noqa: N802 - the protocol's name
        requests, *status = self._script.pop(0) if self._script else (10**6,)
        replica = self._replica()
        self.replicas.append(replica)
        for _ in range(requests):
            request = await context.read()
            if request is grpc.aio.EOF:
                answers = replica.finish()
            else:
                answers = replica.handle(request)
                if request.HasField("config"):
                    self.configs.append(request.config)
            for answer in answers:
                await context.write(answer)
            if request is grpc.aio.EOF:
                return
        await context.abort(*status)


@contextlib.asynccontextmanager
async def served(servicer):
    """A server on a free port: the server and its port."""
    server = grpc.aio.server()
    pb_grpc.add_ClassifierServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield server, port
    finally:
        await server.stop(None)


@pytest.fixture
def perform(run_async, scripted):
    """A call to one scripted server: its events, resumptions and the servicer."""

    def run(script, checkpoints=(5, 10, 15), **options):
        async def main():
            servicer = Servicer(lambda: scripted.Replica(checkpoints), script)
            async with served(servicer) as (_, port), Client(f"127.0.0.1:{port}") as client:
                async with client.call(**({"resumable": True} | options)) as call:
                    for chunk in CHUNKS:
                        await call.send(chunk)
                    await call.end_of_audio()
                    events = [event async for event in call]
                return events, call.resumptions, servicer

        return run_async(main())

    return run


@pytest.mark.parametrize(
    ("script", "resumptions"),
    [
        ([], 0),
        ([(8, Code.UNAVAILABLE, "going down")], 1),
        ([(8, Code.INTERNAL, "Received RST_STREAM with error code 2")], 1),
        ([(8, Code.CANCELLED, "Received RST_STREAM with error code 8")], 1),
        ([(0, Code.UNAVAILABLE, "draining")] * 2, 0),
        ([(8, Code.UNAVAILABLE, ""), (0, Code.RESOURCE_EXHAUSTED, "full")], 1),
        ([(7, Code.UNAVAILABLE, ""), (1, Code.UNKNOWN, "x"), (7, Code.INTERNAL, "nan")], 3),
    ],
    ids=["lives", "unavailable", "reset", "cancelled", "refuses", "full", "three times"],
)
def test_a_resumed_call_has_equal_results(perform, script, resumptions):
    expected, _, quiet = perform([])
    events, resumed, servicer = perform(script)
    assert events == expected
    assert resumed == resumptions
    assert servicer.replicas[-1].memory == quiet.replicas[-1].memory
    assert servicer.replicas[-1].memory.data == b"".join(CHUNKS)


def test_retry_delay_of_a_full_server_is_used(perform):
    full = Code.RESOURCE_EXHAUSTED, "full", with_retry(Code.RESOURCE_EXHAUSTED, "full", 0.05)
    events, resumed, servicer = perform([(0, *full), (9, *full), (0, *full)])
    assert events[-1].final
    assert resumed == 1
    assert len(servicer.replicas) == 4


def test_resumption_sends_config_and_last_checkpoint(perform):
    _, _, servicer = perform([(13, Code.UNAVAILABLE, "")], call_id="mine", checkpoint_seconds=2.5)
    first, second = servicer.configs
    assert first.checkpoint_interval == duration(2.5)
    assert not first.resume_from
    assert json.loads(second.resume_from)["received"][-1][0] == 10
    second.ClearField("resume_from")
    assert first == second


def test_calls_are_not_resumable_by_default(perform):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        perform([(8, Code.UNAVAILABLE, "going down")], resumable=False)
    assert (caught.value.code(), caught.value.details()) == (Code.UNAVAILABLE, "going down")
    _, _, servicer = perform([], resumable=False)
    assert not servicer.configs[0].HasField("checkpoint_interval")


@pytest.mark.parametrize(
    "code", [Code.INVALID_ARGUMENT, Code.UNAUTHENTICATED, Code.FAILED_PRECONDITION, Code.ABORTED]
)
@pytest.mark.parametrize("requests", [0, 8])
def test_other_errors_are_the_servers(perform, code, requests):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        perform([(requests, code, "no")])
    assert (caught.value.code(), caught.value.details()) == (code, "no")


def test_final_error_counts_the_attempts(perform):
    """The first error, its delay still readable, although writes met the ends of streams."""
    trailers = with_retry(Code.UNAVAILABLE, "down", 0.01)
    script = [(8, Code.UNAVAILABLE, "down", trailers), *[(0, Code.UNAVAILABLE, "still down")] * 99]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        perform(script, resume_seconds=0.3)
    error = caught.value
    assert error.code() is Code.UNAVAILABLE
    assert error.details().startswith("down (tried again ")
    assert error.details().endswith("s, the last with UNAVAILABLE: still down)")
    assert retry_delay(error) == 0.01


def test_options_bound_the_replay_buffer():
    async def most(**options):
        async with Client("127.0.0.1:1") as client:
            return client.call(resumable=True, **options)._stream._buffer._max_audio_bytes

    assert asyncio.run(most()) == 70 * RATE
    wide = {"encoding": "linear16", "sample_rate": 16000, "channels": ["caller", "agent"]}
    assert asyncio.run(most(**wide, checkpoint_seconds=1, resume_seconds=8)) == 10 * 16000 * 4


def test_another_address_takes_over(run_async, scripted):
    """The server of one address goes for good in mid-call; each call of that one moves."""

    async def main():
        servicers = [Servicer(lambda: scripted.Replica({5, 10, 15})) for _ in range(2)]
        async with (
            served(servicers[0]) as (first, one),
            served(servicers[1]) as (_, two),
            Client(f"ipv4:127.0.0.1:{one},127.0.0.1:{two}") as client,
        ):
            while not all(servicer.replicas for servicer in servicers):  # until both connect
                async with client.call():
                    pass
            before = len(servicers[0].replicas)
            halfway, gone = asyncio.Barrier(9), asyncio.Event()

            async def gateway():
                async with client.call(resumable=True) as call:
                    for n, chunk in enumerate(CHUNKS):
                        if n == 8:
                            await halfway.wait()
                            await gone.wait()
                        await call.send(chunk)
                    finals = await call.finish()
                return finals, call.resumptions

            calls = asyncio.gather(*(gateway() for _ in range(8)))
            await halfway.wait()
            hit = len(servicers[0].replicas) - before
            await first.stop(None)
            gone.set()
            return await calls, hit

    calls, hit = run_async(main())
    assert hit == 4, "calls are spread over both addresses"
    assert sorted(resumptions for _, resumptions in calls) == [0] * 4 + [1] * 4
    assert len({str(finals) for finals, _ in calls}) == 1
    assert [final.sequence for final in calls[0][0]] == [20]


# --- real servers ---


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """A file of checkpoint keys that replicas share."""
    file = tmp_path_factory.mktemp("keys") / "keys.toml"
    file.write_text(key_entry())
    return file


@pytest.fixture
def replicas(keys):
    """Two server processes, and the target that names both."""
    flags = ("--provider", "cpu", "--checkpoint-keys", str(keys))
    with local_server(*flags) as one, local_server(*flags) as two:
        yield (one, two), f"ipv4:{one.target},{two.target}"


def server_of(servers, call_id):
    """The server that has the call."""
    found = [
        server
        for server in servers
        if any(e["event"] == "call_started" and e["call_id"] == call_id for e in server.log)
    ]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize(
    ("blow", "trunks"),
    [(signal.SIGKILL, 0), (signal.SIGKILL, 2), (signal.SIGTERM, 1)],
    ids=["kill -9", "kill -9, trunks", "drained, one trunk"],
)
def test_losing_a_server_changes_no_result(run_async, server, replicas, voices, blow, trunks):
    """Predictions and speech events are those of a call without failures."""
    speech = encode(voices.caller[4 * RATE : 9 * RATE], Encoding.MULAW)
    config = {"call_id": "killed", "update_seconds": 0.5, "speech_events": True}

    async def gateway(target, kill=None, **options):
        events = []
        async with (
            Client(target, trunks=trunks) as client,
            client.call(**config, **options) as call,
        ):
            stream = aiter(call)
            for start in range(0, len(speech), 800):
                await call.send(speech[start : start + 800])
                if start == 32_000:
                    while not any(isinstance(e, Prediction) and e.audio_time >= 3 for e in events):
                        events.append(await anext(stream))
                    if kill:
                        await kill()
            await call.end_of_audio()
            events += [event async for event in stream]
            return events, call.resumptions

    servers, target = replicas

    async def kill():
        victim = await asyncio.to_thread(server_of, servers, "killed")
        victim.process.send_signal(blow)
        await asyncio.to_thread(victim.process.wait)

    expected, _ = run_async(gateway(server.target))
    events, resumptions = run_async(gateway(target, kill, resumable=True, checkpoint_seconds=1.0))
    assert resumptions == 1
    assert [e for e in events if isinstance(e, SpeechEvent)] == [
        e for e in expected if isinstance(e, SpeechEvent)
    ]
    seen, undisturbed = ([e for e in es if isinstance(e, Prediction)] for es in (events, expected))
    times = [prediction.audio_time for prediction in seen if not prediction.final]
    assert times == sorted(set(times))
    assert [prediction.final for prediction in seen] == [False] * len(times) + [True]
    # A busy server leaves some running ones out, so not all of them have a counterpart.
    by_time = {(prediction.audio_time, prediction.final): prediction for prediction in undisturbed}
    assert (seen[-1].audio_time, True) in by_time
    for got in seen:
        same = by_time.get((got.audio_time, got.final), got)
        assert (got.sequence, got.speech_time) == (same.sequence, same.speech_time)
        for task in ("gender", "age_group", "age_band"):
            one, other = (list(getattr(p, task).posterior.values()) for p in (got, same))
            np.testing.assert_allclose(one, other, atol=1e-4)


def test_command_line_shows_a_resumption(replicas, voices, tmp_path):
    servers, target = replicas
    file = tmp_path / "call.wav"
    soundfile.write(file, voices.caller[5 * RATE : 8 * RATE], RATE)
    words = [str(file), "--target", target, "--realtime", "--resumable", "--json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "streamer.client", *words], stdout=subprocess.PIPE, text=True
    )
    killer = threading.Thread(target=kill_whoever_is_called, args=(servers,))
    killer.start()
    shown, _ = process.communicate(timeout=60)
    killer.join()
    assert process.returncode == 0
    entries = [json.loads(line) for line in shown.splitlines()]
    assert entries.count({"resumed": {"times": 1}}) == 1
    times = [e["prediction"]["audio_time"] for e in entries if "prediction" in e]
    assert times[:-1] == sorted(set(times[:-1]))
    assert times[-1] == 3.0
    assert entries[-1]["prediction"]["final"]


def test_view_shows_a_resumption():
    console = Console(width=100, record=True, file=io.StringIO())
    view = CallView("a call", ["caller"], 20.0)
    for times in range(3):
        view.show_resumed(times)
        console.print(view)
    lines = [line.strip() for line in console.export_text().splitlines() if "a call" in line]
    assert lines == ["a call", "a call (resumed once)", "a call (resumed 2 times)"]


def kill_whoever_is_called(servers):
    """Kill -9 the first of the servers that has a call."""
    while True:
        for server in servers:
            if any(entry["event"] == "call_started" for entry in server.log):
                threading.Event().wait(0.5)  # so that the client knows, too
                server.process.send_signal(signal.SIGKILL)
                return
        threading.Event().wait(0.05)


def test_a_server_without_checkpoints_refuses(server, tmp_path, capsys):
    file = tmp_path / "call.wav"
    soundfile.write(file, np.zeros(800, np.int16), RATE)
    assert cli.main([str(file), "--target", server.target, "--resumable"]) == 1
    assert capsys.readouterr().err == (
        f"{server.target}: FAILED_PRECONDITION: config.checkpoint_interval: "
        "this server has no checkpoints\n"
    )
