"""Identities and limits of a trunk; floods and bad messages do not affect other lines."""

import asyncio

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamer.call.call import Call
from streamer.errors import Unauthenticated
from streamer.rpc import envelope_pb2 as envelope
from streamer.security.identity import Caller
from streamer.transport.trunk import REQUESTS_PER_TURN, SPARE_LINES
from streamer.transport.trunk_line import WINDOW
from tests.streamer.transport.gateway import CHUNKS, FINISH, NOISE, Gateway, item
from tests.streamer.wire import EXHAUSTED, LINEAR, OK, Code, config, control, sound


@pytest.mark.parametrize("options", [{"max_calls": 2}])
async def test_limits_are_those_of_calls(gateway):
    await gateway.send(*(item(line, LINEAR) for line in range(3)))
    await gateway.until(2)
    code, message = gateway.end(2)
    assert code is EXHAUSTED
    assert message == "calls: 3 exceeds the limit of 2"
    assert gateway.ends[2].retry_delay.ToTimedelta().total_seconds() == 1.0
    await gateway.send(item(0, FINISH), item(1, FINISH))
    await gateway.until(0, 1)
    await gateway.call(3, LINEAR, FINISH)
    await gateway.until(3)
    assert gateway.end(3) == OK


class Known:
    """Identities that accept every caller and keep its metadata."""

    def __init__(self):
        self.metadata = []

    def refresh(self):
        pass

    def caller(self, opener):
        self.metadata.append(dict(opener.invocation_metadata()))
        return Caller("gateway-7")


class Refusing(Known):
    """Identities that refuse every caller."""

    def caller(self, opener):
        assert opener.peer().startswith("ipv4:127.0.0.1:")
        raise Unauthenticated("missing; send `Bearer TOKEN`", "token_missing")


@pytest.mark.parametrize("identities", [Refusing()])
async def test_unauthenticated_trunk_is_refused(gateway):
    code, details = await gateway.status()
    assert code is Code.UNAUTHENTICATED
    assert details == "authorization: missing; send `Bearer TOKEN`"


@pytest.mark.parametrize("identities", [Known()])
async def test_line_has_identity_of_trunk_and_own_trace(local, identities):
    gateway = Gateway(local.channel, [("x-mine", "yes"), ("traceparent", "of the trunk")])
    await gateway.send(item(1, LINEAR, traceparent="of the call"), item(2, LINEAR))
    await gateway.began(1, 2)
    assert local.service._admission.held == {"gateway-7": 2}
    gateway.stream.cancel()
    assert [headers["x-mine"] for headers in identities.metadata] == ["yes"] * 3
    assert [headers.get("traceparent") for headers in identities.metadata] == [
        "of the trunk",
        "of the call",
        None,
    ]


async def test_draining_server_ends_the_trunk_after_its_calls(local, gateway):
    await gateway.call(1, LINEAR)
    await gateway.began(1)
    draining = asyncio.create_task(local.service.supervisor.drain(20))
    await asyncio.sleep(0)
    await gateway.call(2, LINEAR)
    await gateway.until(2)
    assert gateway.end(2)[0] is Code.UNAVAILABLE
    assert gateway.ends[2].HasField("retry_delay")
    await gateway.call(1, *CHUNKS, FINISH)
    code, details = await gateway.status()
    assert gateway.end(1) == OK
    assert code is Code.UNAVAILABLE
    assert details == "the server is shutting down; call again, another one may answer"
    await draining


async def test_flood_ends_only_its_line(local, gateway):
    """The model is stopped, so the flood fills the backlog."""
    loud = [sound(n, NOISE.tobytes()) for n in range(1, 30)]
    await gateway.call(1, LINEAR)
    await gateway.began(1)
    local.student.gate.clear()
    await gateway.call(2, LINEAR)
    await gateway.began(2)
    for request in loud:
        await gateway.call(2, request)
    await gateway.call(3, LINEAR)
    await gateway.began(3)  # all of line 2 has come
    local.student.gate.set()
    await gateway.until(2)
    code, message = gateway.end(2)
    assert code is EXHAUSTED
    assert message.startswith("line: ")
    assert message.endswith(f"not yet taken exceeds the limit of {WINDOW}")
    await gateway.call(1, *CHUNKS, FINISH)
    await gateway.until(1)
    assert gateway.end(1) == OK


async def test_sender_within_the_window_is_not_limited(gateway):
    long = [sound(n, NOISE.tobytes()) for n in range(1, 30)]
    await gateway.call(1, LINEAR)
    await gateway.began(1)
    sent = len(LINEAR.SerializeToString())
    for request in [*long, FINISH]:
        while sent - gateway.taken[1] >= WINDOW:
            assert await gateway.read()
        await gateway.call(1, request)
        sent += len(request.SerializeToString())
    await gateway.until(1)
    assert gateway.end(1) == OK
    assert sent > 4 * WINDOW
    (final,) = gateway.finals(1)
    assert final.audio_time.ToTimedelta().total_seconds() == 4 * len(long)


@pytest.mark.parametrize("options", [{"max_calls": 1}])
async def test_message_of_many_lines_is_refused(gateway):
    """More lines than a server could have calls are refused before they are looked at."""
    crowd = range(2, 5002)
    await gateway.call(1, LINEAR)
    await gateway.began(1)
    await gateway.send(*(item(line, LINEAR) for line in crowd))
    await gateway.until(*crowd)
    ends = {gateway.end(line) for line in crowd}
    most = 1 + SPARE_LINES
    assert (EXHAUSTED, f"lines of a trunk: {most + 1} exceeds the limit of {most}") in ends
    assert {code for code, _ in ends} == {EXHAUSTED}
    assert all(gateway.ends[line].HasField("retry_delay") for line in crowd)
    await gateway.call(1, *CHUNKS, FINISH)
    await gateway.until(1)
    assert gateway.end(1) == OK


async def test_long_message_yields_to_others(gateway):
    turns = 0

    async def count():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    await gateway.call(1, LINEAR)
    await gateway.began(1)
    tiny = [sound(n, b"\0\0") for n in range(1, 20 * REQUESTS_PER_TURN + 1)]
    counting = asyncio.create_task(count())
    reading = asyncio.create_task(gateway.until(1))
    await gateway.send(*(item(1, request) for request in tiny), item(1, FINISH))
    before = turns
    await reading
    counting.cancel()
    assert turns - before >= 20
    assert gateway.end(1) == OK


@pytest.mark.parametrize("options", [{"max_calls": 1, "idle_timeout": 0.5}])
async def test_unread_trunk_is_ended(gateway):
    """Refusals, until gRPC takes no more of them."""

    async def flood():
        for first in range(0, 10**6, 8000):
            await gateway.send(*(item(first + line, LINEAR) for line in range(8000)))

    with structlog.testing.capture_logs() as logs:
        flooding = asyncio.create_task(flood())
        async with asyncio.timeout(40):
            while not (ended := [entry for entry in logs if entry["event"] == "trunk_ended"]):
                await asyncio.sleep(0.05)
        flooding.cancel()
        await asyncio.gather(flooding, return_exceptions=True)
    assert ended[0]["status"] == "DEADLINE_EXCEEDED"
    assert ended[0]["reason"] == "the last responses were not read for 0.5 s"


@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "with the config"])
async def test_exception_ends_only_its_line(gateway, monkeypatch, at_once):
    receive = Call.receive_audio

    def fragile(call, audio):
        if call.config.call_id == "bad":
            raise MemoryError
        receive(call, audio)

    monkeypatch.setattr(Call, "receive_audio", fragile)
    bad = config(call_id="bad", encoding=LINEAR.config.encoding)
    await gateway.call(1, LINEAR, *CHUNKS[:20])
    await gateway.began(1)
    if at_once:
        await gateway.call(2, bad)
        await gateway.began(2)
        await gateway.call(2, CHUNKS[0])
    else:
        await gateway.call(2, bad, CHUNKS[0])
    await gateway.until(2)
    assert gateway.end(2) == (Code.INTERNAL, "the server failed on this call: MemoryError")
    await gateway.call(1, *CHUNKS[20:], FINISH)
    await gateway.until(1)
    assert gateway.end(1) == OK


requests = st.one_of(
    st.sampled_from([LINEAR, FINISH, *CHUNKS[:6], config(sample_rate=1), control("discard"), None]),
    st.binary(max_size=30),
)
items = st.tuples(st.integers(0, 6), st.one_of(requests, st.just("leave")), st.binary(max_size=4))


def as_item(line, what, traceparent):
    if what == "leave":
        return envelope.LineRequest(line=line, leave=envelope.Leave())
    coded = what if isinstance(what, bytes) else what.SerializeToString() if what else b""
    return envelope.LineRequest(line=line, request=coded, traceparent=traceparent)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(messages=st.lists(st.lists(items, max_size=8), max_size=12))
def test_other_lines_do_not_affect_a_call(in_process, messages):
    """And every line that was opened ends exactly once."""

    async def scenario(local):
        gateway = Gateway(local.channel)
        good = 7
        await gateway.call(good, LINEAR)
        for index, message in enumerate(messages):
            lines = [as_item(10 + line, *rest) for line, *rest in message]
            await gateway.stream.write(envelope.StreamTrunkRequest(lines=lines).SerializeToString())
            await gateway.call(good, CHUNKS[index])
        await gateway.call(good, FINISH)
        await gateway.stream.done_writing()
        assert await gateway.status() == OK
        assert gateway.end(good) == OK
        assert [final.sequence for final in gateway.finals(good)] == [len(messages)]
        assert set(gateway.responses) <= set(gateway.ends)
        assert local.service.supervisor.open_streams == 0
        assert local.service._admission.held == {}

    in_process(scenario)
