"""When checkpoints are due, and which of them a slow gateway or a slow student gets to see."""

import asyncio

import numpy as np
import pytest

from streamer.audio.codec import Encoding
from streamer.call.call import Call
from streamer.call.overload import Load
from streamer.checkpoint.resumption import CheckpointSchedule
from streamer.inference.engine import Engine
from streamer.inference.registry import ServedModel
from streamer.observability.metrics import Metrics
from streamer.rpc import voicecohort_pb2 as pb
from streamer.session.session import CallConfig

RATE = 8000


class Plain:
    """Checkpoints that anyone can read, and that remember what they were made of."""

    def __init__(self):
        self.states = []

    def seal(self, _identity, state):
        self.states.append(state)
        return b"sealed"


def make_schedule(clock, checkpoints, interval=1.0, most=100.0):
    return CheckpointSchedule(None, interval, most, checkpoints, Metrics(), lambda: clock.now)


def test_due_by_audio(clock):
    schedule = make_schedule(clock, Plain(), interval=2.0)
    assert [schedule.due(seconds) for seconds in (0.0, 1.9, 2.0, 3.0)] == [False, False, True, True]
    schedule.requested(3.0)
    assert [schedule.due(seconds) for seconds in (3.0, 4.9, 5.0)] == [False, False, True]


def test_overdue_by_time(clock):
    schedule = make_schedule(clock, Plain())
    clock.now += 99.0
    assert not schedule.overdue
    clock.now += 1.0
    assert schedule.overdue
    schedule.requested(0.5)
    assert not schedule.overdue
    clock.now += 100.0
    assert schedule.overdue


class Desk:
    """A call with checkpoints, on a fake student, whose gateway reads when it may."""

    def __init__(self, student, clock):
        self.student, self.sealed, self.sent = student, Plain(), []
        self.engine = Engine(student, asyncio.get_running_loop().call_soon_threadsafe)
        self.schedule = make_schedule(clock, self.sealed)
        config = CallConfig("c", Encoding.LINEAR16, RATE, checkpoint_seconds=1.0)
        self.call = Call(
            config,
            ServedModel.of(self.engine),
            lambda: clock.now,
            Metrics(),
            Load(),
            checkpoint_schedule=self.schedule,
        )
        self.may_send = asyncio.Event()
        self.received = 0

    def receive_audio(self, seconds):
        rng = np.random.default_rng(self.received)
        data = rng.integers(-9000, 9000, round(seconds * RATE)).astype("<i2").tobytes()
        self.received += 1
        audio = pb.Audio(sequence=self.received, data=data)
        self.call.handle(pb.StreamClassifyRequest(audio=audio))

    writable = False

    async def write(self, response):
        await self.may_send.wait()
        self.sent.append(response)

    @property
    def sequences(self):
        return [r.checkpoint.sequence for r in self.sent if r.HasField("checkpoint")]


@pytest.fixture
def desk(run_async, make_student, clock):
    async def start():
        desk = Desk(make_student(), clock)
        desk.writer = asyncio.create_task(desk.call.responses.write_all(desk))
        return desk

    async def stop(desk):
        desk.writer.cancel()
        desk.student.gate.set()
        desk.call.close()
        await asyncio.to_thread(desk.engine.stop)

    desk = run_async(start())
    yield desk
    run_async(stop(desk))


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.002)


async def test_unread_checkpoint_is_replaced_by_a_newer_one(desk):
    """It is not even made: what a slow gateway never sees costs nothing."""
    for _ in range(20):
        desk.receive_audio(1.0)
        await until(lambda: not desk.call.session.snapshot_pending)
    assert len(desk.call.responses.queue) <= 3
    assert desk.sealed.states == []
    desk.may_send.set()
    await until(lambda: desk.sequences)
    await asyncio.sleep(0.02)
    # The first may have been on its way out already.
    assert desk.sequences[-1] == 20
    assert len(desk.sequences) <= 2
    assert [state.sequence for state in desk.sealed.states] == desk.sequences


async def test_slow_student_does_not_keep_every_checkpoint_from_being_made(desk):
    """Audio comes faster than the student hears it: one is made all the same, then the next."""
    desk.may_send.set()
    desk.student.gate.clear()
    for _ in range(5):
        desk.receive_audio(1.0)
    await asyncio.sleep(0.02)
    assert desk.sequences == []
    desk.student.gate.set()
    await until(lambda: len(desk.sequences) == 2)
    assert desk.sequences == [1, 5], "the oldest asked for, then what came due meanwhile"


async def test_nothing_follows_the_last_checkpoint(desk):
    """Not even predictions of audio that came in before it."""
    desk.may_send.set()
    desk.student.gate.clear()
    desk.receive_audio(0.9)
    desk.call.migrate()
    desk.call.migrate()
    desk.student.gate.set()
    reason = await desk.call.stopped
    assert reason.status == "UNAVAILABLE"
    desk.receive_audio(3.0)  # the reader had it in its hands
    await until(lambda: desk.call.session.backlog.blocks == 0)
    desk.call.request_checkpoint()
    desk.call.close_responses()
    await until(lambda: desk.sequences)
    await asyncio.sleep(0.02)
    assert desk.sequences == [1]
    assert desk.sent[-1].HasField("checkpoint")


async def test_reader_holds_what_it_has_in_its_hands_while_the_call_moves(desk):
    desk.receive_audio(0.5)
    desk.student.gate.clear()
    desk.call.migrate()
    audio = pb.Audio(sequence=2, data=bytes(1600))

    class Incoming:
        left = (pb.StreamClassifyRequest(audio=audio), None)

        def set_audio_handler(self, at_once):
            assert at_once(self.left[0]) is False

        async def read(self):
            first, *self.left = self.left
            return first

    reader = asyncio.create_task(desk.call.receive_all(Incoming()))
    await asyncio.sleep(0.02)
    assert not reader.done()
    assert desk.call.session.audio_seconds == 0.5
    desk.student.gate.set()
    await reader
    assert desk.call.session.audio_seconds == 0.5
    assert desk.call.stopped.result().status == "UNAVAILABLE"


async def test_call_that_has_heard_nothing_has_no_checkpoint(desk):
    desk.may_send.set()
    desk.call.request_checkpoint()
    await asyncio.sleep(0.02)
    assert desk.sent == []
    desk.call.migrate()
    assert desk.call.stopped.done()
