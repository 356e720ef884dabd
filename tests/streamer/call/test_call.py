"""One call without gRPC: what waits to be sent, who waits for whom, how it ends."""

import asyncio
import threading

import numpy as np
import pytest

from streamer.audio.codec import Encoding
from streamer.call.call import BACKLOG_SECONDS, MAX_UNSENT_EVENTS, Call
from streamer.call.overload import Load
from streamer.errors import InferenceFailed, InvalidArgument, LimitExceeded
from streamer.inference.engine import Engine
from streamer.inference.registry import ServedModel
from streamer.observability.metrics import Metrics
from streamer.rpc import voicecohort_pb2 as pb
from streamer.session.session import CallConfig

RATE = 8000
MOST = round(BACKLOG_SECONDS / 0.16)
"""Blocks of the fake student."""


class Desk:
    """A call on a fake student, with a stream made of lists."""

    def __init__(self, student, **config):
        self.student = student
        self.now = 100.0
        self.metrics = Metrics()
        self.engine = Engine(student, asyncio.get_running_loop().call_soon_threadsafe)
        defaults = {"call_id": "c", "encoding": Encoding.LINEAR16, "sample_rate": RATE}
        self.call = Call(
            CallConfig(**(defaults | config)),
            ServedModel.of(self.engine),
            lambda: self.now,
            self.metrics,
            Load(),
        )
        self.incoming = []
        self.reads = 0
        self.sent = []
        self.may_send = asyncio.Event()
        self.may_send.set()

    def set_audio_handler(self, at_once):
        self.at_once = at_once

    async def read(self):
        self.reads += 1
        return self.incoming.pop(0) if self.incoming else None

    writable = False

    async def write(self, response):
        await self.may_send.wait()
        self.sent.append(response)

    def predictions(self):
        return [r.prediction for r in self.sent if r.HasField("prediction")]

    async def stop(self):
        self.student.gate.set()
        self.call.close()
        await asyncio.to_thread(self.engine.stop)


@pytest.fixture
def options():
    """Fields of the call's config; tests parametrise it."""
    return {}


@pytest.fixture
def desk(run_async, make_student, options):
    async def start():
        return Desk(make_student(), **options)

    desk = run_async(start())
    yield desk
    run_async(desk.stop())


async def until(condition):
    while not condition():
        await asyncio.sleep(0.005)


def noise(seconds, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(-9000, 9000, round(seconds * RATE)).astype("<i2").tobytes()


def audio(sequence, data):
    return pb.StreamClassifyRequest(audio=pb.Audio(sequence=sequence, data=data))


async def test_reader_stops_reading_while_the_student_is_behind(desk):
    desk.student.gate.clear()
    desk.incoming = [audio(n, noise(1.0, n)) for n in range(1, 61)]
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
async def test_unread_predictions_are_replaced_by_newer_ones(desk):
    writer = asyncio.create_task(desk.call.responses.write_all(desk))
    desk.may_send.clear()
    for number in range(1, 201):
        desk.call.handle(audio(number, bytes(3200)))
        await asyncio.sleep(0)
    assert len(desk.call.responses.queue) <= 2, "at most one prediction a channel waits"
    await desk.call.finish()
    assert len(desk.call.responses.queue) <= 2
    desk.call.close_responses()
    desk.may_send.set()
    await writer
    predictions = desk.predictions()
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
    writer = asyncio.create_task(desk.call.responses.write_all(desk))
    desk.call.handle(audio(1, noise(1.0)))
    await until(desk.predictions)
    desk.call.handle(audio(2, bytes(2 * RATE)))
    await desk.call.finish()
    desk.call.close_responses()
    await writer
    kinds = [r.WhichOneof("message") for r in desk.sent]
    overtaken = ["speech", "prediction", "speech", "prediction"]  # by the final
    assert kinds in ([*overtaken, "prediction"], overtaken)
    assert desk.predictions()[-1].final


async def test_finish_waits_for_every_final(desk):
    desk.student.gate.clear()
    desk.call.handle(audio(1, noise(2.0)))
    finishing = asyncio.create_task(desk.call.finish())
    await asyncio.sleep(0.05)
    assert not finishing.done()
    desk.student.gate.set()
    await finishing
    assert [u.final for u in desk.call.responses.queue] == [True]


async def test_failing_student_stops_the_call_and_its_finish(desk):
    bad = np.full(2 * RATE, 1, "<i2")
    bad[:] = np.frombuffer(noise(2.0), "<i2")
    bad[0] = desk.student.RAISES
    desk.call.handle(audio(1, bad.tobytes()))
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
async def test_a_prediction_is_timed_from_its_audio_message_until_it_is_written(desk):
    def timed(suffix):
        name = f"voicecohort_prediction_latency_seconds_{suffix}"
        return desk.metrics.registry.get_sample_value(name)

    writer = asyncio.create_task(desk.call.responses.write_all(desk))
    desk.student.gate.clear()
    desk.call.handle(audio(1, noise(0.9)))
    desk.now += 3.0
    desk.call.handle(audio(2, noise(0.2)))  # makes it due
    desk.now += 0.25
    desk.student.gate.set()
    desk.may_send.clear()
    await until(lambda: not desk.call.session.backlog.blocks and not desk.call.responses.queue)
    desk.now += 0.5
    desk.may_send.set()
    await until(desk.predictions)
    assert timed("count") == 1
    assert timed("sum") == pytest.approx(0.75)
    await desk.call.finish()
    desk.call.close_responses()
    await writer
    assert desk.predictions()[-1].final
    assert timed("count") == 1, "no message makes a final prediction due"


async def test_every_message_counts_as_a_sign_of_life(desk):
    assert desk.call.last_message == 100.0
    desk.now = 107.0
    desk.call.handle(audio(1, b"\0\0"))
    assert (desk.call.last_message, desk.call.messages) == (107.0, 1)
    desk.now = 109.0
    desk.call.handle(pb.StreamClassifyRequest(control=pb.Control(hold=pb.Hold())))
    assert (desk.call.last_message, desk.call.messages) == (109.0, 2)


async def test_only_finish_finishes(desk):
    assert desk.call.handle(audio(1, b"\0\0")) is False
    for action in ("discard", "hold", "resume"):
        control = pb.Control(**{action: getattr(pb, action.capitalize())()})
        assert desk.call.handle(pb.StreamClassifyRequest(control=control)) is False
    finish = pb.StreamClassifyRequest(control=pb.Control(finish=pb.Finish()))
    assert desk.call.handle(finish) is True
    desk.incoming = [finish, audio(2, b"\0\0")]
    await desk.call.receive_all(desk)
    assert len(desk.incoming) == 1, "nothing is read behind a finish"


async def test_only_audio_that_nothing_stands_in_the_way_of_is_receive_audio_now(desk):
    reader = asyncio.create_task(desk.call.receive_all(desk))
    await reader  # there is nothing to read
    assert desk.at_once(audio(1, noise(0.5))) is True
    assert desk.call.session.audio_seconds == 0.5
    for action in ("discard", "hold", "finish"):
        control = pb.Control(**{action: getattr(pb, action.capitalize())()})
        assert desk.at_once(pb.StreamClassifyRequest(control=control)) is False
    assert desk.at_once(pb.StreamClassifyRequest()) is False
    desk.student.gate.clear()
    sequence = 2
    while desk.call.session.backlog.blocks <= MOST:
        assert desk.at_once(audio(sequence, noise(1.0, sequence))) is True
        sequence += 1
    heard = desk.call.session.audio_seconds
    assert desk.at_once(audio(sequence, noise(1.0))) is False
    assert desk.call.session.audio_seconds == heard
    desk.student.gate.set()
    await until(lambda: desk.call.session.backlog.blocks == 0)
    with pytest.raises(InvalidArgument):
        desk.at_once(audio(sequence, b""))
    assert desk.at_once(audio(sequence, noise(0.1))) is True


async def test_engine_answers_on_the_loops_thread(desk):
    threads = set()
    desk.call.on_progress = lambda: threads.add(threading.current_thread())
    desk.call.session._listener = desk.call
    desk.call.handle(audio(1, noise(1.0)))
    await until(lambda: threads)
    assert threads == {threading.current_thread()}
