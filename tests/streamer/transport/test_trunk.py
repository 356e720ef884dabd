"""Many calls on one stream: each is what it would be on its own, and none harms another."""

import asyncio
import gc
import weakref

import pytest

from streamer.rpc import envelope_pb2 as envelope
from streamer.transport.trunk_line import Line
from tests.streamer.transport.gateway import CHUNKS, FINISH, item, leave
from tests.streamer.wire import FAILED, INVALID, LINEAR, OK, Code, config, sound


async def test_calls_are_what_they_would_be_on_their_own(local, gateway):
    code, _, alone = await local.outcome(LINEAR, *CHUNKS)
    assert code is Code.OK
    await gateway.say(*(item(line, LINEAR) for line in range(5)))
    for chunk in CHUNKS:  # a message has a chunk of each
        await gateway.say(*(item(line, chunk) for line in range(5)))
    await gateway.say(*(item(line, FINISH) for line in range(5)))
    await gateway.until(*range(5))
    for line in range(5):
        assert gateway.end(line) == OK
        assert gateway.finals(line) == alone
        assert gateway.responses[line][0].HasField("started")
    assert local.service.supervisor.open_streams == 0
    assert local.service._admission.held == {}


async def test_the_trunk_of_many_calls_waits_for_no_others(local, gateway):
    """All that its calls send till its next message has come: gathering would only delay it."""
    local.engine._ready._gather = 1000.0
    await gateway.say(*(item(line, LINEAR) for line in range(3)))
    other = local.stub.StreamClassify()
    await other.write(LINEAR)
    await other.read()
    for chunk in CHUNKS[:10]:
        await gateway.say(*(item(line, chunk) for line in range(3)))
    while any(len(gateway.responses[line]) < 2 for line in range(3)):  # started, predicted
        assert await gateway.read()
    hurried = []
    local.engine.flush = lambda: hurried.append(True)
    await gateway.say(leave(1), leave(2))
    await gateway.until(1, 2)
    del hurried[:]
    local.service.supervisor.open_streams += 4  # now it is one of six calls
    await gateway.say(item(0, CHUNKS[10]))
    await gateway.say(item(0, LINEAR))
    await gateway.until(0)
    assert not hurried
    local.service.supervisor.open_streams -= 4
    await gateway.say(item(7, LINEAR))
    await gateway.began(7)
    assert hurried.count(True) > 0
    assert local.service.response_delay() == 0.0
    local.service.supervisor.load.demand = 0.6  # now a few milliseconds are worth less than CPU
    assert local.service.response_delay() > 0.0
    del hurried[:]
    local.service.trunk_message_received(2)
    assert not hurried
    other.cancel()


@pytest.mark.parametrize(
    ("requests", "end"),
    [
        (
            [config(sample_rate=11025), *CHUNKS],
            (INVALID, "config.sample_rate: 11025 is not valid; 8000 or 16000 Hz"),
        ),
        (
            [LINEAR, sound(1, b"\1\2\3")],
            (INVALID, "audio.data: 3 bytes is not valid; a sample of every channel takes 2 bytes"),
        ),
        ([sound(1)], (FAILED, "config: the first message of a stream must be the config")),
        ([LINEAR, LINEAR], (FAILED, "config: only the first message of a stream may be a config")),
        ([LINEAR, None], (INVALID, "message: empty is not valid; send config, audio or control")),
    ],
    ids=["config", "audio", "no config", "config twice", "nothing"],
)
async def test_an_error_ends_its_line_alone(gateway, requests, end):
    await gateway.call(1, LINEAR, *CHUNKS[:20])
    await gateway.call(2, *requests)
    await gateway.until(2)
    await gateway.call(1, *CHUNKS[20:], FINISH)
    await gateway.until(1)
    assert gateway.end(2) == end
    assert gateway.end(1) == OK
    assert [final.sequence for final in gateway.finals(1)] == [len(CHUNKS)]


async def test_a_request_that_is_no_message_ends_its_line_alone(gateway):
    """A call id that is not UTF-8, as a header of SIP may be: protobuf will not decode it."""
    bad = envelope.LineRequest(line=2, request=b"\x0a\x05\x0a\x03\xff\xfe\xfd")
    await gateway.call(1, LINEAR)
    await gateway.stream.write(envelope.StreamTrunkRequest(lines=[bad]).SerializeToString())
    await gateway.call(1, *CHUNKS, FINISH)
    await gateway.until(1, 2)
    code, message = gateway.end(2)
    assert code is INVALID
    assert message.startswith("message: undecodable is not valid; ")
    assert gateway.end(1) == OK


async def test_a_message_that_is_none_ends_the_trunk_and_its_calls(local, gateway):
    await gateway.call(1, LINEAR)
    await gateway.began(1)
    await gateway.stream.write(b"\x0a\xff")
    code, details = await gateway.status()
    assert code is INVALID
    assert details.startswith("message: undecodable is not valid; ")
    assert local.service.supervisor.open_streams == 0
    assert local.service._admission.held == {}


async def test_half_closing_finishes_every_call(gateway):
    await gateway.call(1, LINEAR, *CHUNKS)
    await gateway.call(2, LINEAR)
    await gateway.stream.done_writing()
    assert await gateway.status() == OK
    assert gateway.end(1) == gateway.end(2) == OK
    assert [f.sequence for f in gateway.finals(1) + gateway.finals(2)] == [len(CHUNKS), 0]


async def test_a_trunk_without_calls_stays_and_ends_well(gateway):
    await gateway.say()
    await gateway.call(7, LINEAR, FINISH)
    await gateway.until(7)
    await gateway.stream.done_writing()
    assert await gateway.status() == OK


@pytest.mark.parametrize("at_once", [True, False], ids=["before it is served", "while it runs"])
async def test_a_call_can_be_left(local, gateway, at_once):
    await gateway.call(1, LINEAR)
    if at_once:
        await gateway.say(item(2, LINEAR), leave(2))
    else:
        await gateway.call(2, LINEAR, *CHUNKS)
        await gateway.began(2)
        await gateway.say(leave(2))
    await gateway.until(2)
    assert gateway.end(2) == (Code.CANCELLED, "the gateway left")
    assert gateway.finals(2) == []
    assert local.service.supervisor.open_streams == 1
    await gateway.call(1, *CHUNKS, FINISH)
    await gateway.until(1)
    assert gateway.end(1) == OK


async def test_what_comes_after_the_end_is_dropped(local, gateway):
    await gateway.call(5, config(sample_rate=1))
    await gateway.until(5)
    await gateway.say(item(5, LINEAR), item(5, CHUNKS[0]), leave(5), item(4, LINEAR), leave(3))
    await gateway.call(6, LINEAR, FINISH)
    await gateway.until(6)
    assert set(gateway.ends) == {5, 6}
    assert local.service.supervisor.open_streams == 0


async def test_calls_of_a_trunk_that_breaks_are_over(local, gateway):
    await gateway.call(1, LINEAR, *CHUNKS)
    await gateway.call(2, LINEAR)
    await gateway.began(1, 2)
    assert local.service.supervisor.open_streams == 2
    gateway.stream.cancel()
    async with asyncio.timeout(10):
        while local.service.supervisor.open_streams:
            await asyncio.sleep(0.01)
    assert local.service.supervisor.calls == set()
    assert local.service._admission.held == {}


@pytest.mark.parametrize("way", ["finished", "broken", "undecodable"])
def test_nothing_is_kept_of_a_trunk_that_is_over(trunked, monkeypatch, way):
    """Not even until Python looks for cycles."""
    kept = []
    lines = Line.__init__

    def remembered(line, *args):
        lines(line, *args)
        kept.append(weakref.ref(line))

    monkeypatch.setattr(Line, "__init__", remembered)

    async def scenario(local, gateway):
        await gateway.call(1, LINEAR, *CHUNKS)
        await gateway.call(2, LINEAR)
        await gateway.began(1, 2)
        if way == "finished":
            await gateway.stream.done_writing()
            assert await gateway.status() == OK
        elif way == "undecodable":
            await gateway.stream.write(b"\x0a\xff")
            await gateway.status()
        else:
            gateway.stream.cancel()
        async with asyncio.timeout(10):
            while local.service.supervisor.open_streams or any(line() is not None for line in kept):
                await asyncio.sleep(0.01)
        assert len(kept) == 2

    gc.disable()
    try:
        trunked(scenario)
    finally:
        gc.enable()
