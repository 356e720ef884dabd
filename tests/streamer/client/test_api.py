"""The embedded client against a real server."""

import asyncio
import dataclasses

import grpc
import numpy as np
import pytest

from streamer.audio.codec import Encoding, encode
from streamer.client import Client, Prediction, SpeechEvent

RATE = 8000
TASKS = ("gender", "age_group", "age_band")
Code = grpc.StatusCode


@pytest.fixture(scope="module")
def run(run_async):
    """Have a call with the embedded client; returns what the scenario returns."""

    async def main(target, scenario, config):
        async with Client(target) as client, client.call(**config) as call:
            return await scenario(call)

    return lambda target, scenario, **config: run_async(main(target, scenario, config))


@pytest.fixture(scope="module")
def speech(voices):
    """3 s of a speaking caller, mu-law."""
    return encode(voices.caller[5 * RATE : 8 * RATE], Encoding.MULAW)


def parts(data, size=800):
    return [data[start : start + size] for start in range(0, len(data), size)]


# --- the class ---


def test_finals_equal_those_of_a_raw_call(run, server, line, speech, request_of):
    async def scenario(call):
        numbers = [await call.send(part) for part in parts(speech)]
        return numbers, await call.finish()

    numbers, (final,) = run(server.target, scenario)
    assert numbers == list(range(1, 31))
    raw = line.run(
        request_of.config(), *(request_of.audio(n, p) for n, p in enumerate(parts(speech), start=1))
    )
    (started,), expected = raw.of("started"), raw.finals[0]
    assert (final.channel, final.sequence, final.final) == (0, 30, True)
    assert final.audio_time == 3.0
    assert final.speech_time == expected.speech_time.ToTimedelta().total_seconds() > 2
    assert final.lost_time == 0.0
    for name in TASKS:
        task, message = getattr(final, name), getattr(expected, name)
        assert list(task.posterior) == list(getattr(started, name).labels)
        np.testing.assert_allclose(list(task.posterior.values()), message.posterior, atol=1e-5)
        assert (task.label, bool(task.undecided)) == (message.label, not message.label)
        assert task.confidence == pytest.approx(max(message.posterior), abs=1e-5)


def test_started_names_the_model(run, server, student):
    async def scenario(call):
        return call.started

    started = run(server.target, scenario, call_id="mine", update_seconds=0.25)
    assert started.call_id == "mine"
    assert started.model.model_id == student.metadata.model_id
    assert started.update_interval.ToTimedelta().total_seconds() == 0.25


def test_events_arrive_during_sending(run, server, speech):
    """A gateway reads a prediction of what it has sent before it sends on."""

    async def scenario(call):
        events = aiter(call)
        seen = []
        for part in parts(speech, 4000):
            sequence = await call.send(part)
            while True:
                event = await anext(events)
                seen.append(event)
                if isinstance(event, Prediction):
                    assert (event.sequence, event.final) == (sequence, False)
                    break
        await call.end_of_audio()
        return seen, [event async for event in events]

    seen, rest = run(server.target, scenario, update_seconds=0.5, speech_events=True)
    predictions = [event for event in seen if isinstance(event, Prediction)]
    assert [p.audio_time for p in predictions] == [0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
    assert SpeechEvent in {type(event) for event in seen}
    assert isinstance(rest[-1], Prediction)
    assert rest[-1].final
    with pytest.raises(dataclasses.FrozenInstanceError):
        rest[-1].final = False


def test_two_channels_in_order(run, server, demo_call):
    async def scenario(call):
        await call.send(demo_call.data[: 2 * 5 * RATE])
        return await call.finish()

    finals = run(server.target, scenario, channels=["caller", "agent"])
    assert [final.channel for final in finals] == [0, 1]
    assert finals[0].speech_time != finals[1].speech_time


def test_ignored_role(run, server, demo_call):
    async def scenario(call):
        await call.send(demo_call.data[: 2 * 5 * RATE])
        return await call.finish()

    finals = run(server.target, scenario, channels=["ignored", "agent"])
    assert [final.channel for final in finals] == [1]


@pytest.mark.parametrize(
    ("encoding", "rate", "size"), [("alaw", 8000, 1), ("linear16", 8000, 2), ("linear16", 16000, 2)]
)
def test_formats(run, server, encoding, rate, size):
    async def scenario(call):
        await call.send(bytes(rate * size))
        return await call.finish()

    (final,) = run(server.target, scenario, encoding=encoding, sample_rate=rate)
    assert final.audio_time == 1.0


def test_loss(run, server, speech):
    async def scenario(call):
        first = await call.send(speech[:8000])
        second = await call.send(speech[8000:16000], lost_before=2)
        third = await call.send(speech[16000:], start_sample=5 * RATE)
        return (first, second, third), await call.finish()

    numbers, (final,) = run(server.target, scenario)
    assert numbers == (1, 4, 5)
    assert (final.lost_time, final.audio_time) == (3.0, 6.0)


def test_control(run, server, speech):
    async def scenario(call):
        await call.send(speech)
        await call.discard()
        await call.hold(0)
        await call.send(speech)
        await call.resume()
        await call.send(bytes([0xFF]) * 8000)
        return await call.finish()

    (final,) = run(server.target, scenario)
    assert (final.audio_time, final.speech_time) == (7.0, 0.0)
    assert final.gender.undecided == "no_speech"
    assert final.gender.label == ""
    assert final.gender.posterior == {"female": 0.5, "male": 0.5}


def test_min_speech(run, server, speech):
    async def scenario(call):
        await call.send(speech)
        return await call.finish()

    (final,) = run(server.target, scenario, min_speech_seconds=30)
    assert final.gender.undecided == "little_speech"


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"sample_rate": 44100}, "config.sample_rate: 44100"),
        ({"channels": ["ignored"]}, "config.channels: every channel ignored"),
        ({"update_seconds": 0.01}, "config.update_interval: 0.01 s"),
    ],
)
def test_refused_config_raises_the_servers_error(run, server, config, field):
    async def scenario(_):
        raise AssertionError("the call began")

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        run(server.target, scenario, **config)
    assert caught.value.code() is Code.INVALID_ARGUMENT
    assert caught.value.details().startswith(field)


def test_bad_audio_raises_at_the_next_read(run, server):
    async def scenario(call):
        await call.send(b"abc")
        return [event async for event in call]

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        run(server.target, scenario, encoding="linear16")
    assert caught.value.code() is Code.INVALID_ARGUMENT
    assert caught.value.details().startswith("audio.data: 3 bytes is not valid")


@pytest.mark.parametrize("reading", [False, True], ids=["sending", "sending and reading"])
def test_failed_call_raises_the_servers_error_while_sending(run, server, reading):
    """Whatever the two do when they meet: the gateway must get the status of the server.

    Neither asyncio's InvalidStateError nor gRPC's "Internal error from Core" gives the reason.
    """

    async def send(call):
        await call.send(b"abc")
        for _ in range(1000):
            await call.send(bytes(1600))

    async def both(call):
        async with asyncio.TaskGroup() as group:
            group.create_task(send(call))
            group.create_task(read(call))

    async def read(call):
        return [event async for event in call]

    seen = set()
    for _ in range(20):
        try:
            run(server.target, both if reading else send, encoding="linear16")
        except* grpc.aio.AioRpcError as raised:
            seen |= {(error.code(), error.details()) for error in raised.exceptions}
    message = "audio.data: 3 bytes is not valid; a sample of every channel takes 2 bytes"
    assert seen == {(Code.INVALID_ARGUMENT, message)}


def test_two_tasks_may_send_at_once(run, server):
    """A gateway's audio and its call control need not know of each other."""

    async def scenario(call):
        async def audio():
            return [await call.send(b"\xff" * 800) for _ in range(50)]

        async def control():
            for _ in range(50):
                await call.hold()
                await call.resume()

        async with asyncio.timeout(10):
            first, second, _ = await asyncio.gather(audio(), audio(), control())
            return first, second, await call.finish()

    first, second, (final,) = run(server.target, scenario)
    assert sorted(first + second) == list(range(1, 101))
    assert (final.audio_time, final.lost_time, final.sequence) == (10.0, 0.0, 100)


def test_finish_of_a_failed_call_raises_the_servers_error(run, server):
    async def scenario(call):
        await call.send(b"abc")
        await asyncio.sleep(0.3)
        return await call.finish()

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        run(server.target, scenario, encoding="linear16")
    assert caught.value.code() is Code.INVALID_ARGUMENT


def test_no_server_raises_unavailable(run, free_port):
    async def scenario(_):
        raise AssertionError("the call began")

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        run(f"127.0.0.1:{free_port}", scenario)
    assert caught.value.code() is Code.UNAVAILABLE


def test_leaving_the_context_cancels_the_call(run, server, log_entry):
    async def scenario(call):
        await call.send(bytes(800))

    run(server.target, scenario, call_id="left-early")
    assert log_entry(server, "call_ended", call_id="left-early")["status"] == "CANCELLED"


def test_many_calls_on_one_connection(run_async, server, speech):
    async def one(client, count):
        async with client.call() as call:
            for part in parts(speech, 1600)[:count]:
                await call.send(part)
                await asyncio.sleep(0)
            return await call.finish()

    async def main():
        async with Client(server.target) as client:
            return await asyncio.gather(*(one(client, count) for count in range(1, 16)))

    finals = run_async(main())
    assert [final.audio_time for (final,) in finals] == pytest.approx(
        [0.2 * count for count in range(1, 16)]
    )
