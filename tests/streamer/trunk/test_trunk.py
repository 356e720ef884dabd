"""Many calls on one stream: each is what it would be on its own, and none harms another."""

import asyncio
import gc
import weakref

import numpy as np
import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamer.call import Call
from streamer.errors import Unauthenticated
from streamer.line import WINDOW, Line
from streamer.rpc import envelope_pb2 as envelope
from streamer.security.identity import Caller
from streamer.trunk import SPARE, TURN
from tests.streamer.trunk.gateway import Gateway, item, leave
from tests.streamer.wire import (
    EXHAUSTED,
    FAILED,
    INVALID,
    LINEAR,
    OK,
    RATE,
    Code,
    config,
    control,
    sound,
)

FINISH = control("finish")
NOISE = np.random.default_rng(0).integers(-9000, 9000, 4 * RATE).astype(np.int16)
CHUNKS = [sound(n, part.tobytes()) for n, part in enumerate(np.split(NOISE, 40), start=1)]


@pytest.fixture
def trunked(in_process):
    """Run a scenario with a server and the end of a trunk to it."""

    def run(scenario, **options):
        async def main(local):
            gateway = Gateway(local.channel)
            try:
                await scenario(local, gateway)
            finally:
                gateway.stream.cancel()

        in_process(main, **options)

    return run


def test_calls_are_what_they_would_be_on_their_own(trunked):
    async def scenario(local, gateway):
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
        assert local.service.running == 0
        assert local.service._admission.held == {}

    trunked(scenario)


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
def test_an_error_ends_its_line_alone(trunked, requests, end):
    async def scenario(_local, gateway):
        await gateway.call(1, LINEAR, *CHUNKS[:20])
        await gateway.call(2, *requests)
        await gateway.until(2)
        await gateway.call(1, *CHUNKS[20:], FINISH)
        await gateway.until(1)
        assert gateway.end(2) == end
        assert gateway.end(1) == OK
        assert [final.sequence for final in gateway.finals(1)] == [len(CHUNKS)]

    trunked(scenario)


def test_a_request_that_is_no_message_ends_its_line_alone(trunked):
    """A call id that is not UTF-8, as a header of SIP may be: protobuf will not decode it."""
    bad = envelope.LineRequest(line=2, request=b"\x0a\x05\x0a\x03\xff\xfe\xfd")

    async def scenario(_local, gateway):
        await gateway.call(1, LINEAR)
        await gateway.stream.write(envelope.StreamTrunkRequest(lines=[bad]).SerializeToString())
        await gateway.call(1, *CHUNKS, FINISH)
        await gateway.until(1, 2)
        code, message = gateway.end(2)
        assert code is INVALID
        assert message.startswith("message: undecodable is not valid; ")
        assert gateway.end(1) == OK

    trunked(scenario)


def test_a_message_that_is_none_ends_the_trunk_and_its_calls(trunked):
    async def scenario(local, gateway):
        await gateway.call(1, LINEAR)
        await gateway.began(1)
        await gateway.stream.write(b"\x0a\xff")
        code, details = await gateway.status()
        assert code is INVALID
        assert details.startswith("message: undecodable is not valid; ")
        assert local.service.running == 0
        assert local.service._admission.held == {}

    trunked(scenario)


def test_half_closing_finishes_every_call(trunked):
    async def scenario(_local, gateway):
        await gateway.call(1, LINEAR, *CHUNKS)
        await gateway.call(2, LINEAR)
        await gateway.stream.done_writing()
        assert await gateway.status() == OK
        assert gateway.end(1) == gateway.end(2) == OK
        assert [f.sequence for f in gateway.finals(1) + gateway.finals(2)] == [len(CHUNKS), 0]

    trunked(scenario)


def test_a_trunk_without_calls_stays_and_ends_well(trunked):
    async def scenario(_local, gateway):
        await gateway.say()
        await gateway.call(7, LINEAR, FINISH)
        await gateway.until(7)
        await gateway.stream.done_writing()
        assert await gateway.status() == OK

    trunked(scenario)


@pytest.mark.parametrize("at_once", [True, False], ids=["before it is served", "while it runs"])
def test_a_call_can_be_left(trunked, at_once):
    async def scenario(local, gateway):
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
        assert local.service.running == 1
        await gateway.call(1, *CHUNKS, FINISH)
        await gateway.until(1)
        assert gateway.end(1) == OK

    trunked(scenario)


def test_what_comes_after_the_end_is_dropped(trunked):
    async def scenario(local, gateway):
        await gateway.call(5, config(sample_rate=1))
        await gateway.until(5)
        await gateway.say(item(5, LINEAR), item(5, CHUNKS[0]), leave(5), item(4, LINEAR), leave(3))
        await gateway.call(6, LINEAR, FINISH)
        await gateway.until(6)
        assert set(gateway.ends) == {5, 6}
        assert local.service.running == 0

    trunked(scenario)


def test_calls_of_a_trunk_that_breaks_are_over(trunked):
    async def scenario(local, gateway):
        await gateway.call(1, LINEAR, *CHUNKS)
        await gateway.call(2, LINEAR)
        await gateway.began(1, 2)
        assert local.service.running == 2
        gateway.stream.cancel()
        async with asyncio.timeout(10):
            while local.service.running:
                await asyncio.sleep(0.01)
        assert local.service._calls == set()
        assert local.service._admission.held == {}

    trunked(scenario)


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
            while local.service.running or any(line() is not None for line in kept):
                await asyncio.sleep(0.01)
        assert len(kept) == 2

    gc.disable()
    try:
        trunked(scenario)
    finally:
        gc.enable()


def test_limits_are_those_of_calls(trunked):
    async def scenario(_local, gateway):
        await gateway.say(*(item(line, LINEAR) for line in range(3)))
        await gateway.until(2)
        code, message = gateway.end(2)
        assert code is EXHAUSTED
        assert message == "calls: 3 exceeds the limit of 2"
        assert gateway.ends[2].retry_delay.ToTimedelta().total_seconds() == 1.0
        await gateway.say(item(0, FINISH), item(1, FINISH))
        await gateway.until(0, 1)
        await gateway.call(3, LINEAR, FINISH)
        await gateway.until(3)
        assert gateway.end(3) == OK

    trunked(scenario, max_calls=2)


def test_who_may_not_call_gets_no_trunk(trunked):
    class Nobody:
        def refresh(self):
            pass

        def caller(self, opener):
            assert opener.peer().startswith("ipv4:127.0.0.1:")
            raise Unauthenticated("missing; send `Bearer TOKEN`", "token_missing")

    async def scenario(_local, gateway):
        code, details = await gateway.status()
        assert code is Code.UNAUTHENTICATED
        assert details == "authorization: missing; send `Bearer TOKEN`"

    trunked(scenario, identities=Nobody())


def test_a_line_is_of_who_opened_the_trunk_and_traced_by_itself(in_process):
    seen = []

    class Known:
        def refresh(self):
            pass

        def caller(self, opener):
            seen.append(dict(opener.invocation_metadata()))
            return Caller("gateway-7")

    async def main(local):
        mine = [("x-mine", "yes"), ("traceparent", "of the trunk")]
        gateway = Gateway(local.channel, mine)
        await gateway.say(item(1, LINEAR, traceparent="of the call"), item(2, LINEAR))
        await gateway.began(1, 2)
        assert local.service._admission.held == {"gateway-7": 2}
        gateway.stream.cancel()

    in_process(main, identities=Known())
    assert [headers["x-mine"] for headers in seen] == ["yes"] * 3
    assert [headers.get("traceparent") for headers in seen] == ["of the trunk", "of the call", None]


def test_a_draining_server_takes_no_calls_and_ends_the_trunk_after_the_last(trunked):
    async def scenario(local, gateway):
        await gateway.call(1, LINEAR)
        await gateway.began(1)
        draining = asyncio.create_task(local.service.drain(20))
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

    trunked(scenario)


def test_who_sends_more_than_is_heard_loses_that_call_alone(trunked):
    """The student stands still, so nothing is heard of the flood beyond its backlog."""
    loud = [sound(n, NOISE.tobytes()) for n in range(1, 30)]

    async def scenario(local, gateway):
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

    trunked(scenario)


def test_who_waits_for_what_is_taken_can_send_any_length(trunked):
    long = [sound(n, NOISE.tobytes()) for n in range(1, 30)]

    async def scenario(_local, gateway):
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

    trunked(scenario)


def test_a_message_of_very_many_lines_costs_no_call_and_little_memory(trunked):
    """More lines than a server could have calls are refused before they are looked at."""
    crowd = range(2, 5002)

    async def scenario(_local, gateway):
        await gateway.call(1, LINEAR)
        await gateway.began(1)
        await gateway.say(*(item(line, LINEAR) for line in crowd))
        await gateway.until(*crowd)
        ends = {gateway.end(line) for line in crowd}
        most = 1 + SPARE
        assert (EXHAUSTED, f"lines of a trunk: {most + 1} exceeds the limit of {most}") in ends
        assert {code for code, _ in ends} == {EXHAUSTED}
        assert all(gateway.ends[line].HasField("retry_delay") for line in crowd)
        await gateway.call(1, *CHUNKS, FINISH)
        await gateway.until(1)
        assert gateway.end(1) == OK

    trunked(scenario, max_calls=1)


def test_others_have_their_turn_within_a_message(trunked):
    async def scenario(_local, gateway):
        turns = 0

        async def count():
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        await gateway.call(1, LINEAR)
        await gateway.began(1)
        tiny = [sound(n, b"\0\0") for n in range(1, 20 * TURN + 1)]
        counting = asyncio.create_task(count())
        heard = asyncio.create_task(gateway.until(1))
        await gateway.say(*(item(1, request) for request in tiny), item(1, FINISH))
        before = turns
        await heard
        counting.cancel()
        assert turns - before >= 20
        assert gateway.end(1) == OK

    trunked(scenario)


def test_a_trunk_that_is_not_read_is_ended(trunked):
    """Refusals, until gRPC takes no more of them."""

    async def scenario(_local, gateway):
        async def flood():
            for first in range(0, 10**6, 8000):
                await gateway.say(*(item(first + line, LINEAR) for line in range(8000)))

        with structlog.testing.capture_logs() as logs:
            flooding = asyncio.create_task(flood())
            async with asyncio.timeout(40):
                while not (ended := [entry for entry in logs if entry["event"] == "trunk_ended"]):
                    await asyncio.sleep(0.05)
            flooding.cancel()
            await asyncio.gather(flooding, return_exceptions=True)
        assert ended[0]["status"] == "DEADLINE_EXCEEDED"
        assert ended[0]["reason"] == "the last responses were not read for 0.5 s"

    trunked(scenario, max_calls=0, idle_timeout=0.5)


@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "with the config"])
def test_an_exception_that_nobody_expected_ends_its_line_alone(trunked, monkeypatch, at_once):
    handle = Call.handle

    def fragile(call, request):
        if call.config.call_id == "bad":
            raise MemoryError
        return handle(call, request)

    monkeypatch.setattr(Call, "handle", fragile)
    bad = config(call_id="bad", encoding=LINEAR.config.encoding)

    async def scenario(_local, gateway):
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

    trunked(scenario)


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
def test_whatever_comes_on_other_lines_a_call_is_heard(trunked, messages):
    """And every line that was opened ends exactly once."""

    async def scenario(local, gateway):
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
        assert local.service.running == 0
        assert local.service._admission.held == {}

    trunked(scenario)
