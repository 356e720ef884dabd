"""Clients that are killed, silent, do not read, or are too many."""

import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

from google.protobuf.duration_pb2 import Duration

from streamer.rpc import voicecohort_pb2 as pb
from tests.streamer.wire import OK, TASKS, Code, config, seconds, sound, unique

CLIENT = """
import asyncio, sys
from streamer.client import Client

async def main():
    async with Client(sys.argv[1]) as client, client.call(call_id=sys.argv[2]) as call:
        await call.send(bytes(8000))
        print("sent", flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


def test_call_of_a_killed_client_ends(server, line, neighbour, speech, log_entry):
    call_id = unique()
    with subprocess.Popen(
        [sys.executable, "-c", CLIENT, server.target, call_id], stdout=subprocess.PIPE, text=True
    ) as client:
        try:
            assert client.stdout.readline() == "sent\n"
            log_entry(server, "call_started", call_id=call_id)
            with neighbour.undisturbed():
                client.send_signal(signal.SIGKILL)
                client.wait()
                log_entry(server, "call_ended", call_id=call_id)
        finally:
            client.kill()
    assert line.run(config(), sound(1, speech)).code is Code.OK


def test_hour_of_silence_is_undecided(line, neighbour):
    with neighbour.undisturbed():
        outcome = line.run(config(), *(sound(n, b"\xff" * 80_000) for n in range(1, 361)))
    assert (outcome.code, outcome.details) == OK
    final = outcome.finals[0]
    assert seconds(final.audio_time) == 3600.0
    assert seconds(final.speech_time) < 1.0
    reasons = {pb.UNDECIDED_REASON_NO_SPEECH, pb.UNDECIDED_REASON_LITTLE_SPEECH}
    assert {getattr(final, task).undecided for task in TASKS} <= reasons
    assert {getattr(final, task).label for task in TASKS} == {""}


def test_call_above_the_limit_is_refused(small, make_line, speech):
    line = make_line(small.target)
    first, second = (line.open(config(), sound(1, speech)) for _ in range(2))
    for call in (first, second):
        assert call.read().HasField("started")
    third = line.run(config(), sound(1, speech))
    assert third.code is Code.RESOURCE_EXHAUSTED
    assert third.details == "calls: 3 exceeds the limit of 2"
    assert third.responses == []
    assert third.retry_seconds == 1.0
    first.half_close()
    assert first.outcome().code is Code.OK
    assert line.run(config(), sound(1, speech)).code is Code.OK
    second.half_close()
    assert second.outcome().code is Code.OK


def test_longest_chunk_is_accepted(small, make_line):
    """In the most voluminous format too."""
    line = make_line(small.target)
    form = {
        "encoding": pb.AUDIO_ENCODING_LINEAR16,
        "sample_rate": 16000,
        "channels": [pb.ChannelConfig()] * 2,
    }
    announced = line.run(config(**form)).of("started")[0].limits.max_chunk
    assert announced == Duration(seconds=60)
    outcome = line.run(config(**form), sound(1, bytes(60 * 16000 * 2 * 2)))
    assert (outcome.code, outcome.details) == OK
    assert seconds(outcome.finals[1].audio_time) == 60.0


def resident_bytes(server):
    pages = Path(f"/proc/{server.process.pid}/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * resource.getpagesize()


def wait_until_idle(server):
    """Wait until a server uses no CPU time."""

    def used():
        fields = Path(f"/proc/{server.process.pid}/stat").read_text(encoding="ascii").split()
        return int(fields[13]) + int(fields[14])

    before = -1
    while used() > before:
        before = used()
        time.sleep(0.5)


def test_unread_predictions_use_no_memory(server, make_line):
    """Predictions it has not read are replaced by newer ones, not piled up."""
    first, chunks = 1000, 9000
    # A window of 64 KB that does not grow holds some 400 predictions.
    call = make_line(server.target, ("grpc.http2.bdp_probe", 0)).open(
        config(update_interval=Duration(nanos=100_000_000), channels=[pb.ChannelConfig()] * 2)
    )
    assert call.read().HasField("started")
    call.send(*(sound(n, b"\xff" * 1600) for n in range(1, first + 1)))
    wait_until_idle(server)
    before = resident_bytes(server)
    call.send(*(sound(n, b"\xff" * 1600) for n in range(first + 1, chunks + 1)))
    wait_until_idle(server)
    growth = resident_bytes(server) - before
    call.half_close()
    outcome = call.outcome()
    assert (outcome.code, outcome.details) == OK
    assert {p.sequence for p in outcome.finals.values()} == {chunks}
    assert set(outcome.finals) == {0, 1}
    assert len(outcome.predictions) < 1000, "of 18 000 that were due"
    assert growth < 8 << 20, "the audio alone was 12 MB"


def test_call_that_is_not_read_is_ended(impatient, make_line, log_entry):
    call_id = unique()
    call = make_line(impatient.target, ("grpc.http2.bdp_probe", 0)).open(
        config(call_id=call_id, update_interval=Duration(nanos=100_000_000)),
        *(sound(n) for n in range(1, 3001)),
    )
    call.half_close()
    try:
        entry = log_entry(impatient, "call_ended", seconds=10, call_id=call_id)
    finally:
        call.cancel()
    assert (entry["status"], entry["messages"]) == ("DEADLINE_EXCEEDED", 3000)
