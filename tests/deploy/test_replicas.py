"""Calls outlive their server: replicas behind the real Envoy, killed and restarted under load."""

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest

from streamer.audio.codec import SAMPLE_RATE, Encoding, encode
from streamer.client import Client, Prediction
from streamer.security.__main__ import key_entry

CALLS = 50
CHUNK = 800
"""Samples of a message: 100 ms."""
PACE = 0.025
"""Seconds between two messages: four times as fast as people talk."""
TASKS = ("gender", "age_group", "age_band")


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """A file of checkpoint keys, as `python -m streamer.security key` makes it."""
    file = tmp_path_factory.mktemp("keys") / "checkpoint-keys.toml"
    file.write_text(key_entry())
    return file


@pytest.fixture(scope="module")
def speech(voices):
    """Audio of each call, mu-law, 8 s: different people at different moments."""
    both = np.concatenate([voices.caller, voices.agent])
    starts = np.linspace(0, len(both) - 8 * SAMPLE_RATE, CALLS).astype(int)
    return [encode(both[start : start + 8 * SAMPLE_RATE], Encoding.MULAW) for start in starts]


async def play(client, audio, call_id, *, pace=PACE, last_word=None, **options):
    """One paced call, whose last message waits for ``last_word``; what a gateway saw of it."""
    seen = []
    async with client.call(call_id=call_id, update_seconds=0.2, **options) as call:

        async def pump():
            for start in range(0, len(audio), CHUNK):
                if last_word is not None and start + CHUNK >= len(audio):
                    await last_word.wait()
                await call.send(audio[start : start + CHUNK])
                await asyncio.sleep(pace)
            await call.end_of_audio()

        pumping = asyncio.create_task(pump())
        try:
            seen = [event async for event in call if isinstance(event, Prediction)]
            await pumping
        finally:
            pumping.cancel()
        return SimpleNamespace(seen=seen, resumptions=call.resumptions)


async def all_calls(target, speech, round_number, **options):
    async with Client(target) as client:
        calls = (
            play(client, audio, f"r{round_number}-{number}", **options)
            for number, audio in enumerate(speech)
        )
        return await asyncio.gather(*calls)


def same_finals(calls, references):
    """Every call has the prediction it would have had, and saw nothing twice."""
    for call, reference in zip(calls, references, strict=True):
        times = [prediction.audio_time for prediction in call.seen]
        assert times == sorted(times)
        running = times[:-1]
        assert len(set(running)) == len(running), "a prediction came twice"
        assert [prediction.final for prediction in call.seen] == [False] * len(running) + [True]
        final, expected = call.seen[-1], reference.seen[-1]
        for name in ("audio_time", "speech_time", "lost_time", "sequence"):
            assert getattr(final, name) == getattr(expected, name), name
        for task in TASKS:
            got, undisturbed = getattr(final, task), getattr(expected, task)
            assert (got.label, got.undecided) == (undisturbed.label, undisturbed.undecided)
            for label, probability in undisturbed.posterior.items():
                assert got.posterior[label] == pytest.approx(probability, abs=1e-4)


@pytest.fixture(scope="module")
def references(server, speech, run_async):
    """The calls undisturbed, at a server that nobody kills."""
    return run_async(all_calls(server.target, speech, "quiet", pace=0.0))


RESUMABLE = {"resumable": True, "checkpoint_seconds": 1.0}


def test_killed_replicas_lose_no_call(make_fleet, keys, speech, references, run_async, until):
    fleet = make_fleet(2, "--checkpoint-keys", str(keys), health_seconds=0.1)

    async def once(number):
        running = asyncio.create_task(all_calls(fleet.target, speech, number, **RESUMABLE))
        await asyncio.sleep(len(speech[0]) / CHUNK * PACE / 2)

        def calls_of(replica):
            return sum(call_id.startswith(f"r{number}-") for call_id in replica.started_calls())

        # Fifty calls at once mostly meet the one that was just started: Envoy does not count calls
        # that wait for their connection.
        victim = max(fleet.replicas, key=calls_of)
        hit = calls_of(victim)
        await asyncio.to_thread(victim.kill)
        calls = await running
        await asyncio.to_thread(victim.start)
        await asyncio.to_thread(until, lambda: not fleet.ill(), "healthy replicas")
        return calls, hit

    for number in range(5):
        calls, hit = run_async(once(number))
        same_finals(calls, references)
        assert hit >= CALLS // 5, "the replica that died had hardly any calls"
        moved = sum(call.resumptions > 0 for call in calls)
        assert moved >= hit, f"{moved} calls moved, {hit} were on the replica that died"


def test_rolling_restart_causes_no_error(make_fleet, keys, speech, references, run_async, until):
    """Resumable calls move at once; those that cannot are waited for."""
    flags = ("--checkpoint-keys", str(keys), "--drain-seconds", "4")
    fleet = make_fleet(2, *flags, health_seconds=0.1)

    async def restart(replica):
        replica.terminate()
        assert await asyncio.to_thread(replica.wait) == 0
        await asyncio.to_thread(replica.start)
        await asyncio.to_thread(until, lambda: not fleet.ill(), "healthy replicas")

    async def roll():
        plain = asyncio.create_task(all_calls(fleet.target, speech[:10], "plain"))
        restarted = asyncio.Event()
        moving = asyncio.create_task(
            all_calls(fleet.target, speech, "moving", pace=0.16, last_word=restarted, **RESUMABLE)
        )
        await asyncio.sleep(1.0)
        for replica in fleet.replicas:
            await restart(replica)
        assert not moving.done(), "the calls were over before the restarts were"
        restarted.set()
        return await plain, await moving

    plain, moving = run_async(roll())
    same_finals(plain, references[:10])
    same_finals(moving, references)
    assert sum(call.resumptions for call in moving) >= CALLS
