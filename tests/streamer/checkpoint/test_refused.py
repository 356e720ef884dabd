"""Checkpoints that are refused, without effect on other calls."""

import os

import pytest

from tests.streamer.checkpoint.replicas import (
    Code,
    config,
    interrupted,
    resume,
    resuming,
    uninterrupted,
)
from tests.streamer.in_process import until

CHANGED = {
    "forged": lambda data: os.urandom(len(data)),
    "truncated": lambda data: data[:-1],
    "prolonged": lambda data: data + b"x",
    "a byte": lambda _: b"V",
    "bit flipped": lambda data: data[:-40] + bytes([data[-40] ^ 1]) + data[-39:],
    "another call": None,
}


@pytest.mark.parametrize("name", CHANGED)
async def test_changed_checkpoint_is_refused(here, there, chunks, name):
    final = await uninterrupted(there, chunks)
    checkpoint = await interrupted(here, chunks, 30)
    if change := CHANGED[name]:
        field, changed = "resume_from: a checkpoint of", config(resume_from=change(checkpoint.data))
    else:
        field, changed = "call_id: another value", resuming(checkpoint, call_id="call-2")
    neighbour = await there.start(config(call_id="neighbour"))
    await neighbour.send(chunks[:30])
    stream = await there.start(changed)
    code, details = await stream.outcome()
    assert code is Code.INVALID_ARGUMENT
    assert details.startswith(f"config.{field}")
    assert stream.responses == []
    await neighbour.send(chunks[30:], first=31)
    assert await neighbour.end() == (Code.OK, "")
    assert neighbour.finals == [final]
    assert there.count(f'refusals_total{{reason="checkpoint",status="{code.name}"}}') == 1
    assert there.count("calls_resumed_total") == 0
    assert (await resume(there, checkpoint, chunks)).finals == [final]


async def test_stale_checkpoint_is_refused(here, there, clock, chunks):
    checkpoint = await interrupted(here, chunks, 30)
    clock.now += 301.0
    code, details = await there.outcome(resuming(checkpoint))
    assert code is Code.INVALID_ARGUMENT
    assert details.endswith("it is 301 s old, at most 300 s are allowed")
    clock.now -= 2.0
    stream = await resume(there, checkpoint, chunks)
    assert await stream.stream.code() is Code.OK


@pytest.mark.parametrize(
    ("opened", "resumed", "code"),
    [
        ("berlin", "berlin", Code.OK),
        ("berlin", "oslo", Code.PERMISSION_DENIED),
        ("berlin", "", Code.PERMISSION_DENIED),
        ("", "oslo", Code.PERMISSION_DENIED),
    ],
)
async def test_checkpoint_of_another_identity_is_refused(
    here, there, chunks, opened, resumed, code
):
    checkpoint = await interrupted(here, chunks, 30, opened)
    stream = await resume(there, checkpoint, chunks, resumed)
    assert await stream.stream.code() is code
    if code is not Code.OK:
        assert await stream.stream.details() == (
            "config.resume_from: the call was opened by another identity"
        )


async def test_server_without_keys_refuses(make, chunks):
    here, there = await make(), await make(keys=None)
    checkpoint = await interrupted(here, chunks, 30)
    changed = resuming(checkpoint)
    assert (await there.outcome(changed))[0] is Code.FAILED_PRECONDITION
    changed.ClearField("checkpoint_interval")
    assert await there.outcome(changed) == (
        Code.FAILED_PRECONDITION,
        "config.resume_from: this server has no checkpoints",
    )


async def test_resumed_call_keeps_its_length(make, clock, chunks):
    here, there = await make(), await make(max_call_seconds=5.0)
    checkpoint = await interrupted(here, chunks, 30)
    clock.now += 1.0
    stream = await there.start(resuming(checkpoint))
    await stream.until("started")
    there.service.supervisor.sweep()
    clock.now += 1.1  # 3 s long, 1 s without a server, and 1.1 s here
    there.service.supervisor.sweep()
    assert (await stream.outcome())[0] is Code.RESOURCE_EXHAUSTED
    assert len(stream.finals) == 1


async def test_resumed_call_may_catch_up(here, there, clock, chunks):
    """Audio of the time without a server is not ahead of time."""
    checkpoint = await interrupted(here, chunks, 30)
    clock.now += 2.0
    stream = await there.start(resuming(checkpoint))
    await stream.until("started")
    (call,) = there.service.supervisor.calls
    await stream.send(chunks[30:50], first=31)
    await until(lambda: call.session.audio_seconds >= 5)
    assert not call.ahead(clock.now)
    await stream.send(chunks[50:], first=51)
    await until(lambda: call.session.audio_seconds >= 6)
    assert call.ahead(clock.now)
    await stream.end()
