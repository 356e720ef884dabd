"""Checkpoints that are refused, and harm nobody."""

import asyncio
import base64
import os

import pytest

from streamer.rpc import voicecohort_pb2 as pb
from tests.streamer.checkpoint.replicas import (
    Code,
    broken_off,
    config,
    gone_on,
    resuming,
    uninterrupted,
)


def flipped(data):
    return data[:-40] + bytes([data[-40] ^ 1]) + data[-39:]


def of(checkpoint, data):
    return pb.Checkpoint(data=data, sequence=checkpoint.sequence)


FIELD = "config.resume_from: a checkpoint of"
REFUSED = {
    "forged": (lambda c: resuming(of(c, os.urandom(len(c.data)))), Code.INVALID_ARGUMENT, FIELD),
    "truncated": (lambda c: resuming(of(c, c.data[:-1])), Code.INVALID_ARGUMENT, FIELD),
    "prolonged": (lambda c: resuming(of(c, c.data + b"x")), Code.INVALID_ARGUMENT, FIELD),
    "a byte": (lambda c: resuming(of(c, b"V")), Code.INVALID_ARGUMENT, FIELD),
    "bit flipped": (lambda c: resuming(of(c, flipped(c.data))), Code.INVALID_ARGUMENT, FIELD),
    "other call": (
        lambda c: resuming(c, call_id="call-2"),
        Code.INVALID_ARGUMENT,
        "config.call_id: another value",
    ),
    "other encoding": (
        lambda c: resuming(c, encoding=pb.AUDIO_ENCODING_ALAW),
        Code.INVALID_ARGUMENT,
        "config.encoding: another value",
    ),
    "other rate": (
        lambda c: resuming(c, sample_rate=16000),
        Code.INVALID_ARGUMENT,
        "config.sample_rate: another value",
    ),
    "other channels": (
        lambda c: resuming(c, channels=[pb.ChannelConfig()] * 2),
        Code.INVALID_ARGUMENT,
        "config.channels: another value",
    ),
    "no interval": (
        lambda c: resuming(c, checkpoint_interval=None),
        Code.INVALID_ARGUMENT,
        "config.checkpoint_interval: another value",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_checkpoint_that_does_not_belong_is_refused(here, there, chunks, name):
    make_config, code, details = REFUSED[name]
    final = await uninterrupted(there, chunks)
    checkpoint = await broken_off(here, chunks, 30)
    neighbour = await there.open(config(call_id="neighbour")).begin()
    await neighbour.say(chunks[:30])
    talk = await there.open(make_config(checkpoint)).begin()
    got, said = await talk.outcome()
    assert (got, said[: len(details)]) == (code, details)
    assert talk.responses == []
    await neighbour.say(chunks[30:], first=31)
    assert await neighbour.end() == (Code.OK, "")
    assert neighbour.finals == [final]
    assert there.count(f'refusals_total{{reason="checkpoint",status="{code.name}"}}') == 1
    assert there.count("calls_resumed_total") == 0
    # and the call itself is none the worse for it
    assert (await gone_on(there, checkpoint, chunks)).finals == [final]


async def test_stale_checkpoint(here, there, clock, chunks):
    checkpoint = await broken_off(here, chunks, 30)
    clock.now += 301.0
    code, details = await (await there.open(resuming(checkpoint)).begin()).outcome()
    assert code is Code.INVALID_ARGUMENT
    assert details.endswith("it is 301 s old, at most 300 s are allowed")
    clock.now -= 2.0
    talk = await gone_on(there, checkpoint, chunks)
    assert await talk.stream.code() is Code.OK


async def test_checkpoint_of_another_model(make, chunks):
    here, there = await make(), await make(digest="cd" * 32)
    checkpoint = await broken_off(here, chunks, 30)
    assert await (await there.open(resuming(checkpoint)).begin()).outcome() == (
        Code.FAILED_PRECONDITION,
        "config.resume_from: it is of a model that this server does not have",
    )


@pytest.mark.parametrize(
    ("opened", "resumed", "code"),
    [
        ("berlin", "berlin", Code.OK),
        ("berlin", "oslo", Code.PERMISSION_DENIED),
        ("berlin", "", Code.PERMISSION_DENIED),
        ("", "oslo", Code.PERMISSION_DENIED),
    ],
)
async def test_checkpoint_of_another_identity(here, there, chunks, opened, resumed, code):
    checkpoint = await broken_off(here, chunks, 30, opened)
    talk = await gone_on(there, checkpoint, chunks, resumed)
    assert await talk.stream.code() is code
    if code is not Code.OK:
        assert await talk.stream.details() == (
            "config.resume_from: the call was opened by another identity"
        )


async def test_server_without_keys(make, chunks):
    here, there = await make(), await make(keys=None)
    checkpoint = await broken_off(here, chunks, 30)
    wanted = resuming(checkpoint)
    assert (await (await there.open(wanted).begin()).outcome())[0] is Code.FAILED_PRECONDITION
    wanted.ClearField("checkpoint_interval")
    assert await (await there.open(wanted).begin()).outcome() == (
        Code.FAILED_PRECONDITION,
        "config.resume_from: this server has no checkpoints",
    )


async def test_server_with_other_keys(make, chunks, tmp_path):
    other = tmp_path / "other.toml"
    other.write_text(f'[[key]]\nid = "other"\nsecret = "{base64.b64encode(bytes(32)).decode()}"\n')
    here, there = await make(), await make(keys=other)
    checkpoint = await broken_off(here, chunks, 30)
    code, details = await (await there.open(resuming(checkpoint)).begin()).outcome()
    assert code is Code.INVALID_ARGUMENT
    assert details.endswith("no key of this server opens it")


async def test_call_does_not_get_longer_than_one_may_by_moving(make, clock, chunks):
    here, there = await make(), await make(max_call_seconds=5.0)
    checkpoint = await broken_off(here, chunks, 30)
    clock.now += 1.0
    talk = await there.open(resuming(checkpoint)).begin()
    await talk.until("started")
    there.service.supervisor.sweep()
    clock.now += 1.1  # 3 s long, 1 s without a server, and 1.1 s here
    there.service.supervisor.sweep()
    assert (await talk.outcome())[0] is Code.RESOURCE_EXHAUSTED
    assert len(talk.finals) == 1


async def test_call_that_catches_up_is_live_again(here, there, clock, chunks):
    """What it says at once was said while it had no server: only that is ahead of time."""
    checkpoint = await broken_off(here, chunks, 30)
    clock.now += 2.0
    talk = await there.open(resuming(checkpoint)).begin()
    await talk.until("started")
    (call,) = there.service.supervisor.calls
    await talk.say(chunks[30:50], first=31)
    while call.session.audio_seconds < 5:
        await asyncio.sleep(0.005)
    assert not call.ahead(clock.now)
    await talk.say(chunks[50:], first=51)
    while call.session.audio_seconds < 6:
        await asyncio.sleep(0.005)
    assert call.ahead(clock.now)
    await talk.end()
