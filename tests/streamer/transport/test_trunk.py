"""Many calls on one stream: each equals a call alone, and none affects another."""

import gc
import weakref

import pytest

from streamer.rpc import envelope_pb2 as envelope
from streamer.transport.trunk_line import Line
from tests.streamer.in_process import until
from tests.streamer.transport.gateway import CHUNKS, FINISH, item, leave
from tests.streamer.wire import FAILED, INVALID, LINEAR, OK, Code, config, sound


async def test_calls_on_a_trunk_equal_calls_alone(local, gateway):
    code, _, alone = await local.outcome(LINEAR, *CHUNKS)
    assert code is Code.OK
    await gateway.send(*(item(line, LINEAR) for line in range(5)))
    for chunk in CHUNKS:  # a message has a chunk of each
        await gateway.send(*(item(line, chunk) for line in range(5)))
    await gateway.send(*(item(line, FINISH) for line in range(5)))
    await gateway.until(*range(5))
    for line in range(5):
        assert gateway.end(line) == OK
        assert gateway.finals(line) == alone
        assert gateway.responses[line][0].HasField("started")
    assert local.service.supervisor.open_streams == 0
    assert local.service._admission.held == {}


async def test_trunk_of_most_calls_flushes_at_once(local, gateway):
    """The next audio of its calls comes with its next message: to gather would only delay."""
    local.engine._ready._gather = 1000.0
    await gateway.send(*(item(line, LINEAR) for line in range(3)))
    other = local.stub.StreamClassify()
    await other.write(LINEAR)
    await other.read()
    for chunk in CHUNKS[:10]:
        await gateway.send(*(item(line, chunk) for line in range(3)))
    while any(len(gateway.responses[line]) < 2 for line in range(3)):  # started, predicted
        assert await gateway.read()
    flushes = []
    local.engine.flush = lambda: flushes.append(True)
    await gateway.send(leave(1), leave(2))
    await gateway.until(1, 2)
    del flushes[:]
    local.service.supervisor.open_streams += 4  # now it is one of six calls
    await gateway.send(item(0, CHUNKS[10]))
    await gateway.send(item(0, LINEAR))
    await gateway.until(0)
    assert not flushes
    local.service.supervisor.open_streams -= 4
    await gateway.send(item(7, LINEAR))
    await gateway.began(7)
    assert flushes.count(True) > 0
    assert local.service.response_delay() == 0.0
    local.service.supervisor.load.demand = 0.6  # now a few milliseconds are worth less than CPU
    assert local.service.response_delay() > 0.0
    del flushes[:]
    local.service.trunk_message_received(2)
    assert not flushes
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
async def test_error_ends_only_its_line(gateway, requests, end):
    await gateway.call(1, LINEAR, *CHUNKS[:20])
    await gateway.call(2, *requests)
    await gateway.until(2)
    await gateway.call(1, *CHUNKS[20:], FINISH)
    await gateway.until(1)
    assert gateway.end(2) == end
    assert gateway.end(1) == OK
    assert [final.sequence for final in gateway.finals(1)] == [len(CHUNKS)]


async def test_undecodable_request_ends_only_its_line(gateway):
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


async def test_half_close_finishes_every_call(gateway):
    await gateway.call(1, LINEAR, *CHUNKS)
    await gateway.call(2, LINEAR)
    await gateway.stream.done_writing()
    assert await gateway.status() == OK
    assert gateway.end(1) == gateway.end(2) == OK
    assert [f.sequence for f in gateway.finals(1) + gateway.finals(2)] == [len(CHUNKS), 0]


@pytest.mark.parametrize("at_once", [True, False], ids=["before it is served", "while it runs"])
async def test_left_call_is_cancelled(local, gateway, at_once):
    await gateway.call(1, LINEAR)
    if at_once:
        await gateway.send(item(2, LINEAR), leave(2))
    else:
        await gateway.call(2, LINEAR, *CHUNKS)
        await gateway.began(2)
        await gateway.send(leave(2))
    await gateway.until(2)
    assert gateway.end(2) == (Code.CANCELLED, "the gateway left")
    assert gateway.finals(2) == []
    assert local.service.supervisor.open_streams == 1
    await gateway.call(1, *CHUNKS, FINISH)
    await gateway.until(1)
    assert gateway.end(1) == OK


async def test_messages_after_the_end_are_dropped(local, gateway):
    await gateway.call(5, config(sample_rate=1))
    await gateway.until(5)
    await gateway.send(item(5, LINEAR), item(5, CHUNKS[0]), leave(5), item(4, LINEAR), leave(3))
    await gateway.call(6, LINEAR, FINISH)
    await gateway.until(6)
    assert set(gateway.ends) == {5, 6}
    assert local.service.supervisor.open_streams == 0


@pytest.mark.parametrize("way", ["finished", "broken", "undecodable"])
async def test_ended_trunk_frees_its_calls(local, gateway, monkeypatch, way):
    """Without a run of the garbage collector."""
    lines, init = [], Line.__init__

    def noted(line, *args):
        init(line, *args)
        lines.append(weakref.ref(line))

    monkeypatch.setattr(Line, "__init__", noted)
    gc.disable()
    try:
        await gateway.call(1, LINEAR, *CHUNKS)
        await gateway.call(2, LINEAR)
        await gateway.began(1, 2)
        if way == "finished":
            await gateway.stream.done_writing()
            assert await gateway.status() == OK
        elif way == "undecodable":
            await gateway.stream.write(b"\x0a\xff")
            code, details = await gateway.status()
            assert code is INVALID
            assert details.startswith("message: undecodable is not valid; ")
        else:
            gateway.stream.cancel()
        await until(lambda: not any(line() for line in lines))
        assert len(lines) == 2
    finally:
        gc.enable()
    assert local.service.supervisor.open_streams == 0
    assert local.service.supervisor.calls == set()
    assert local.service._admission.held == {}
