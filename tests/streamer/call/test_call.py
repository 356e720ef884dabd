"""One call without gRPC: its queue of responses, its flow control, its end."""

import asyncio
import threading

import numpy as np
import pytest

from streamer.call.call import BACKLOG_SECONDS, MAX_UNSENT_EVENTS
from streamer.errors import InferenceFailed, InvalidArgument, LimitExceeded
from streamer.rpc import voicecohort_pb2 as pb
from tests.streamer.call_desk import Desk, noise
from tests.streamer.in_process import until
from tests.streamer.wire import RATE, control, sound

MOST = round(BACKLOG_SECONDS / 0.16)
"""Blocks of the fake student."""


@pytest.fixture
def options():
    """Fields of the call's config; tests parametrise it."""
    return {}


@pytest.fixture
def desk(run_async, options):
    async def start():
        return Desk(**options)

    desk = run_async(start())
    desk.may_send.set()
    yield desk
    run_async(desk.stop())


async def test_reader_stops_while_the_model_is_behind(desk):
    desk.student.gate.clear()
    desk.incoming = [sound(n, noise(1.0, n)) for n in range(1, 61)]
    reader = asyncio.create_task(desk.call.receive_all(desk))
    await until(lambda: desk.call.session.backlog.blocks > MOST)
    await asyncio.sleep(0.05)
    read = desk.reads
    assert desk.call.session.backlog.blocks <= MOST + 7  # the last second's blocks
    assert read < 10
    desk.student.gate.set()
    await reader
    assert desk.reads == 61
    await desk.call.finish()
    assert desk.call.session.backlog.blocks == 0
    assert desk.call.session.speech_seconds == pytest.approx(60, abs=0.1)


@pytest.mark.parametrize("options", [{"update_seconds": 0.1, "ignored": (False, False)}])
async def test_unread_predictions_are_replaced(desk):
    desk.may_send.clear()
    for number in range(1, 201):
        desk.call.handle(sound(number, bytes(3200)))
        await asyncio.sleep(0)
    assert len(desk.call.responses.queue) <= 2, "at most one prediction a channel waits"
    await desk.call.finish()
    assert len(desk.call.responses.queue) <= 2
    await desk.finish()
    predictions = desk.sent_of("prediction")
    assert len(predictions) <= 4  # one a channel was already on its way
    finals = [p for p in predictions if p.final]
    assert [(p.channel, p.sequence) for p in finals] == [(0, 200), (1, 200)]
    assert predictions[-2:] == finals


@pytest.mark.parametrize("options", [{"speech_events": True}])
async def test_unread_speech_events_end_the_call(desk):
    """Unlike predictions they do not replace each other, so their number is bounded."""
    for number in range(MAX_UNSENT_EVENTS + 10):
        desk.call.on_speech(0, number % 2 == 0, number)
        if number <= MAX_UNSENT_EVENTS:
            assert not desk.call.stopped.done()
    error = await desk.call.stopped
    assert isinstance(error, LimitExceeded)
    assert str(error) == "unread responses: 1001 exceeds the limit of 1000"


@pytest.mark.parametrize("options", [{"speech_events": True, "update_seconds": 1.0}])
async def test_events_and_predictions_keep_their_order(desk):
    desk.call.handle(sound(1, noise(1.0)))
    await until(lambda: desk.sent_of("prediction"))
    desk.call.handle(sound(2, bytes(2 * RATE)))
    await desk.finish()
    kinds = [r.WhichOneof("message") for r in desk.sent]
    overtaken = ["speech", "prediction", "speech", "prediction"]  # by the final
    assert kinds in ([*overtaken, "prediction"], overtaken)
    assert desk.sent_of("prediction")[-1].final


async def test_finish_waits_for_every_final(desk):
    desk.student.gate.clear()
    desk.call.handle(sound(1, noise(2.0)))
    finishing = asyncio.create_task(desk.call.finish())
    await asyncio.sleep(0.05)
    assert not finishing.done()
    desk.student.gate.set()
    await finishing
    desk.call.close_responses()
    await desk.writer
    assert [p.final for p in desk.sent_of("prediction")].count(True) == 1


async def test_failing_model_stops_the_call(desk):
    bad = np.full(2 * RATE, 1, "<i2")
    bad[:] = np.frombuffer(noise(2.0), "<i2")
    bad[0] = desk.student.RAISES
    desk.call.handle(sound(1, bad.tobytes()))
    error = await desk.call.stopped
    assert isinstance(error, InferenceFailed)
    with pytest.raises(InferenceFailed):
        await desk.call.finish()


async def test_first_reason_to_stop_is_kept(desk):
    first, second = LimitExceeded("a", 1, 2), LimitExceeded("b", 3, 4)
    desk.call.stop(first)
    desk.call.stop(second)
    assert await desk.call.stopped is first


@pytest.mark.parametrize("options", [{"update_seconds": 1.0}])
async def test_latency_is_from_audio_message_to_write(desk):
    def timed(suffix):
        name = f"voicecohort_prediction_latency_seconds_{suffix}"
        return desk.metrics.registry.get_sample_value(name)

    desk.student.gate.clear()
    desk.call.handle(sound(1, noise(0.9)))
    desk.now += 3.0
    desk.call.handle(sound(2, noise(0.2)))  # makes it due
    desk.now += 0.25
    desk.student.gate.set()
    desk.may_send.clear()
    await until(lambda: not desk.call.session.backlog.blocks and not desk.call.responses.queue)
    desk.now += 0.5
    desk.may_send.set()
    await until(lambda: desk.sent_of("prediction"))
    assert timed("count") == 1
    assert timed("sum") == pytest.approx(0.75)
    await desk.finish()
    assert desk.sent_of("prediction")[-1].final
    assert timed("count") == 1, "no message makes a final prediction due"


async def test_every_message_is_counted_and_timed(desk):
    assert desk.call.last_message == 100.0
    desk.now = 107.0
    desk.call.handle(sound(1, b"\0\0"))
    assert (desk.call.last_message, desk.call.messages) == (107.0, 1)
    desk.now = 109.0
    desk.call.handle(control("hold"))
    assert (desk.call.last_message, desk.call.messages) == (109.0, 2)


async def test_only_finish_finishes(desk):
    assert desk.call.handle(sound(1, b"\0\0")) is False
    for action in ("discard", "hold", "resume"):
        assert desk.call.handle(control(action)) is False
    finish = control("finish")
    assert desk.call.handle(finish) is True
    desk.incoming = [finish, sound(2, b"\0\0")]
    await desk.call.receive_all(desk)
    assert len(desk.incoming) == 1, "nothing is read behind a finish"


async def test_audio_is_processed_at_once(desk):
    reader = asyncio.create_task(desk.call.receive_all(desk))
    await reader  # there is nothing to read
    assert desk.receive_audio_now(sound(1, noise(0.5))) is True
    assert desk.call.session.audio_seconds == 0.5
    for action in ("discard", "hold", "finish"):
        assert desk.receive_audio_now(control(action)) is False
    assert desk.receive_audio_now(pb.StreamClassifyRequest()) is False
    desk.student.gate.clear()
    sequence = 2
    while desk.call.session.backlog.blocks <= MOST:
        assert desk.receive_audio_now(sound(sequence, noise(1.0, sequence))) is True
        sequence += 1
    seconds = desk.call.session.audio_seconds
    assert desk.receive_audio_now(sound(sequence, noise(1.0))) is False
    assert desk.call.session.audio_seconds == seconds
    desk.student.gate.set()
    await until(lambda: desk.call.session.backlog.blocks == 0)
    with pytest.raises(InvalidArgument):
        desk.receive_audio_now(sound(sequence, b""))
    assert desk.receive_audio_now(sound(sequence, noise(0.1))) is True


async def test_engine_notifies_on_the_thread_of_the_loop(desk):
    threads = set()
    desk.call.on_progress = lambda: threads.add(threading.current_thread())
    desk.call.session._listener = desk.call
    desk.call.handle(sound(1, noise(1.0)))
    await until(lambda: threads)
    assert threads == {threading.current_thread()}
