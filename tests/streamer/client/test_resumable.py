"""A call goes on as if nothing had happened, wherever its servers die."""

import asyncio
import itertools

import grpc
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamer.client import Prediction, SpeechEvent
from streamer.client import resumable as resuming
from streamer.client.api import Call
from streamer.rpc import voicecohort_pb2 as pb

Code = grpc.StatusCode
STEPS = [bytes([n, 2 * n]) for n in range(1, 21)]
"""A plain call: 20 messages of two bytes."""


async def perform(call, steps, pauses=()):
    """A gateway: audio, controls and lost messages go out while events come in."""
    events = []

    async def read():
        events.extend([event async for event in call])

    async with call:
        reading = asyncio.create_task(read())
        for step, pause in zip(steps, itertools.chain(pauses, itertools.repeat(1)), strict=False):
            for _ in range(pause):
                await asyncio.sleep(0)
            if isinstance(step, bytes):
                await call.send(step)
            elif isinstance(step, int):
                await call.send(b"\x07", lost_before=step)
            else:
                await getattr(call, step)()
        await call.end_of_audio()
        await reading
    return events


def undisturbed(scripted, run_async, steps):
    """Events and memory of the same call on one stream that lives."""
    stream = scripted.ScriptedStream(scripted.Replica())
    events = run_async(perform(Call(stream, pb.StreamConfig()), steps))
    return events, stream.replica.memory


def check(scripted, run_async, scene, steps, pauses=()):
    """The call's events and what the last server received are those of an undisturbed call."""
    events = run_async(perform(scene.call, steps, pauses))
    expected, memory = undisturbed(scripted, run_async, steps)
    assert events == expected
    last = scene.streams[-1].replica.memory
    assert last.received == memory.received
    assert last == memory
    assert all(stream.closed for stream in scene.streams)
    return events


steps = st.lists(
    st.one_of(
        st.binary(min_size=1, max_size=4),
        st.sampled_from(["hold", "resume", "discard"]),
        st.integers(1, 3),
    ),
    max_size=30,
)
errors = st.sampled_from(
    [
        (Code.UNAVAILABLE, "Socket closed"),
        (Code.INTERNAL, "Received RST_STREAM with error code 2"),
        (Code.CANCELLED, "Received RST_STREAM with error code 8"),
    ]
)
deaths = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 60), errors, st.booleans()), max_size=5
)


@given(steps, st.sets(st.integers(1, 30)), deaths, st.lists(st.integers(0, 6), max_size=30))
@example([b"\x01", "hold", "resume", b"\x01"], {2}, [(5, 60, (Code.UNAVAILABLE, ""), True)], [])
@example([b"\x01", "hold", b"\x02"], {1, 2, 3}, [(3, 9, (Code.UNAVAILABLE, ""), False)] * 5, [])
def test_nothing_is_lost_or_delivered_twice(
    scripted, run_async, steps, checkpoints, deaths, pauses
):
    """Each byte counts exactly once and in order, whichever checkpoints there are."""
    script = [
        scripted.Death(requests, responses, scripted.error_of(*error), early)
        for requests, responses, error, early in deaths
    ]
    scene = scripted.Scene(script, checkpoints)
    check(scripted, run_async, scene, steps, pauses)
    assert len(scene.streams) <= len(deaths) + 1


@pytest.mark.parametrize(
    ("death", "sent_again"),
    [
        ({"requests": 0}, 20),
        ({"requests": 1, "responses": 0}, 20),
        ({"requests": 1, "responses": 1}, 20),
        ({"requests": 6}, 20),
        ({"requests": 19}, 10),
        ({"responses": 10}, None),
        # 10 starts, 10 ends of speech and 20 predictions, 2 checkpoints, started: finals are next
        ({"responses": 43}, 0),
    ],
    ids=[
        "before the config",
        "before started",
        "after started",
        "before a checkpoint",
        "between checkpoints",
        "while sending",
        "before the finals",
    ],
)
def test_death_at_every_point(scripted, run_async, death, sent_again):
    scene = scripted.Scene([scripted.Death(**death)], {10, 20})
    events = check(scripted, run_async, scene, STEPS)
    assert [e.final for e in events if isinstance(e, Prediction)].count(True) == 1
    _, second = scene.streams
    began = death.get("responses") != 0 and death.get("requests") != 0
    assert scene.call.resumptions == int(began)
    again = [r.audio.sequence for r in second.written if r.HasField("audio")]
    assert again == list(range(21 - len(again), 21))
    if sent_again is not None:
        assert len(again) == sent_again


def test_a_missing_status_needs_no_resumption(scripted, run_async):
    """The server's part is done, and it would take the checkpoint for used up."""
    scene = scripted.Scene([scripted.Death(responses=44)], {10, 20})
    check(scripted, run_async, scene, STEPS)
    assert len(scene.streams) == 1


def test_a_call_may_be_sent_before_reading(scripted, run_async):
    scene = scripted.Scene([scripted.Death(requests=8), scripted.Death(requests=9)], {4, 9, 14})

    async def main():
        async with scene.call as call:
            for step in STEPS:
                await call.send(step)
            return await call.finish()

    (final,) = run_async(main())
    assert final.sequence == 20
    assert scene.streams[-1].replica.memory.data == b"".join(STEPS)
    assert scene.call.resumptions == 2


def test_finals_of_a_draining_server_are_replaced(scripted, run_async):
    death = scripted.Death(requests=12, early_finals=True)
    scene = scripted.Scene([death], {5})
    events = check(scripted, run_async, scene, STEPS)
    (final,) = [e for e in events if isinstance(e, Prediction) and e.final]
    assert final.sequence == 20


def test_finals_of_the_last_server_are_delivered(scripted, run_async):
    gone = [scripted.Death(requests=0)] * 100
    scene = scripted.Scene([scripted.Death(requests=12, early_finals=True), *gone], {5})
    events = []

    async def main():
        async with scene.call as call:
            for step in STEPS[:11]:
                await call.send(step)
            async for event in call:
                events.append(event)  # noqa: PERF401 - they must be there when it raises

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        run_async(main())
    assert caught.value.code() is Code.UNAVAILABLE
    assert (events[-1].final, events[-1].sequence) == (True, 11)


@pytest.mark.parametrize(
    "code",
    [
        Code.INVALID_ARGUMENT,
        Code.UNAUTHENTICATED,
        Code.PERMISSION_DENIED,
        Code.FAILED_PRECONDITION,
        Code.ABORTED,
        Code.DEADLINE_EXCEEDED,
        Code.UNIMPLEMENTED,
        Code.RESOURCE_EXHAUSTED,
    ],
)
def test_a_permanent_error_is_raised_at_once(scripted, run_async, code):
    error = scripted.error_of(code, "no")
    scene = scripted.Scene([scripted.Death(requests=5, error=error)], {2})
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        run_async(perform(scene.call, STEPS))
    assert caught.value is error
    assert (len(scene.streams), scene.sleeps) == (1, [])


def test_a_permanent_error_ends_the_retries(scripted, run_async):
    """Another model answers there: the checkpoint is of no use to it."""
    first, second = scripted.error_of(Code.UNAVAILABLE), scripted.error_of(Code.FAILED_PRECONDITION)
    deaths = [scripted.Death(requests=5, error=first), scripted.Death(requests=0, error=second)]
    scene = scripted.Scene(deaths, {2})
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        run_async(perform(scene.call, STEPS))
    assert caught.value is second
    assert caught.value.__cause__ is first


def test_error_is_raised_while_sending(scripted, run_async):
    error = scripted.error_of(Code.ABORTED, "taken over")
    scene = scripted.Scene([scripted.Death(requests=3, error=error)])

    async def main():
        async with scene.call as call:
            while True:
                await call.send(b"\x01")
                await asyncio.sleep(0)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        run_async(main())
    assert caught.value is error


def test_a_server_that_hangs_is_replaced(scripted, run_async):
    scene = scripted.Scene([scripted.Death(mute=True)], response_seconds=0.02)
    check(scripted, run_async, scene, STEPS)
    assert [len(stream.written) for stream in scene.streams] == [0, 21]


# --- memory ---


def test_send_waits_while_the_buffer_is_full(scripted, run_async):
    """A server that is gone for long: 8 bytes are kept, the rest waits, and none is lost."""
    back = asyncio.Event()
    scene = scripted.Scene([scripted.Death(requests=3)], {4, 8, 12, 16, 20}, buffered=8, back=back)

    async def main():
        async def send_all(call):
            for step in STEPS:
                await call.send(step)

        async with scene.call as call:
            sending = asyncio.create_task(send_all(call))
            await asyncio.wait({sending}, timeout=0.05)
            assert not sending.done()
            assert (scene.buffer.audio_bytes, call.resumptions) == (8, 0)
            back.set()
            await sending
            return await call.finish()

    (final,) = run_async(main())
    assert final.sequence == 20
    assert scene.streams[-1].replica.memory.data == b"".join(STEPS)
    assert scene.call.resumptions == 1


def test_waiting_tasks_keep_their_order(scripted, run_async):
    scene = scripted.Scene([scripted.Death(requests=5)] * 3, set(range(1, 1000)), buffered=4)

    async def main():
        async with scene.call as call:

            async def audio():
                return [await call.send(b"\x01\x02") for _ in range(20)]

            async def control():
                for _ in range(20):
                    await call.hold()
                    await call.resume()

            first, second, _ = await asyncio.gather(audio(), audio(), control())
            await call.finish()
            return first + second

    numbers = run_async(main())
    received = [sequence for sequence, _ in scene.streams[-1].replica.memory.received]
    assert sorted(numbers) == received == list(range(1, 41))


def test_unread_responses_are_bounded(scripted, run_async, monkeypatch):
    """Running predictions make room for newer ones; nobody misses those."""
    monkeypatch.setattr(resuming, "MAX_UNREAD", 40)
    scene = scripted.Scene(checkpoints={50, 100})

    async def main():
        async with scene.call as call:
            for _ in range(120):
                await call.send(b"\x02")
            await call.end_of_audio()
            await asyncio.wait({scene.stream._task})
            assert len(scene.stream._unread) <= 41  # the final one comes on top
            return [event async for event in call]

    events = run_async(main())
    times = [event.audio_time for event in events]
    assert times == sorted(times)
    assert events[-1].final
    assert [event.sequence for event in events] == [*range(81, 121), 120]


def test_unread_speech_events_end_the_call(scripted, run_async, monkeypatch):
    """They cannot make room for each other: the server would end such a call as well."""
    monkeypatch.setattr(resuming, "MAX_UNREAD", 40)
    scene = scripted.Scene(checkpoints={50, 100})

    async def main():
        async with scene.call as call:
            for n in range(120):
                await call.send(bytes([n % 2]))
            await asyncio.wait({scene.stream._task})
            return await call.finish()

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        run_async(main())
    assert caught.value.code() is Code.RESOURCE_EXHAUSTED
    assert caught.value.details().startswith("unread responses: 41 exceeds the limit of 40")


# --- ends ---


def test_leaving_early_leaves_no_task(scripted, run_async):
    scene = scripted.Scene([scripted.Death(requests=3)])

    async def main():
        before = asyncio.all_tasks()
        async with scene.call as call:
            await call.send(b"\x01")
        assert asyncio.all_tasks() == before

    run_async(main())
    assert all(stream.closed for stream in scene.streams)


def test_cancelling_the_start_leaves_no_task(scripted, run_async):
    """A gateway's own timeout around the opening of a call, while there is no server."""
    scene = scripted.Scene([scripted.Death(requests=0)] * 10**5, seconds=1e9)

    async def main():
        before = asyncio.all_tasks()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02), scene.call:
                raise AssertionError("it began")
        assert asyncio.all_tasks() == before

    run_async(main())
    assert all(stream.closed for stream in scene.streams)


def test_messages_after_the_half_close_are_refused(scripted, run_async):
    scene = scripted.Scene()

    async def main():
        async with scene.call as call:
            await call.end_of_audio()
            await call.end_of_audio()
            with pytest.raises(asyncio.InvalidStateError, match="half-closed"):
                await call.send(b"\x01")

    run_async(main())


def test_a_resumed_call_has_the_new_started(scripted, run_async):
    """Without a checkpoint all is sent again, and another model may hear it."""
    scene = scripted.Scene([scripted.Death(requests=3)])

    async def main():
        async with scene.call as call:
            before = call.started
            await call.send(b"\x01")
            await call.send(b"\x01")
            await call.finish()
            return before, call.started

    before, after = run_async(main())
    assert before is not after


def test_events_at_one_instant(scripted, run_async):
    """Speech that a hold ends and that starts again at once: both events, each once."""
    steps = [b"\x01", "hold", "resume", b"\x01", b"\x01"]
    for requests in range(2, 7):
        scene = scripted.Scene([scripted.Death(requests=requests)], {1})
        events = check(scripted, run_async, scene, steps)
        speech = [(e.started, e.audio_time) for e in events if isinstance(e, SpeechEvent)]
        at = 1 / 8000
        assert speech == [(True, 0.0), (False, at), (True, at), (False, 3 * at)]
