"""When checkpoints are due, and which are sent if the gateway or the model is slow."""

import asyncio

import pytest

from streamer.checkpoint.resumption import CheckpointSchedule
from streamer.observability.metrics import Metrics
from tests.streamer.call_desk import Desk, noise_message
from tests.streamer.in_process import until
from tests.streamer.wire import sound


class Plain:
    """A sealer that keeps the states."""

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


class CheckpointDesk(Desk):
    """A call with checkpoints each second."""

    def __init__(self, clock):
        self.sealed = Plain()
        schedule = make_schedule(clock, self.sealed)
        super().__init__(lambda: clock.now, schedule, checkpoint_seconds=1.0)
        self.received = 0

    def receive_audio(self, seconds):
        self.received += 1
        self.call.handle(noise_message(self.received, seconds))

    @property
    def sequences(self):
        return [checkpoint.sequence for checkpoint in self.sent_of("checkpoint")]


@pytest.fixture
def desk(run_async, clock):
    async def start():
        return CheckpointDesk(clock)

    desk = run_async(start())
    yield desk
    run_async(desk.stop())


async def test_unread_checkpoint_is_replaced(desk):
    """The replaced checkpoint is not even sealed."""
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


async def test_slow_model_has_checkpoints(desk):
    """Audio comes faster than the model processes it: one checkpoint is made, then the newest."""
    desk.may_send.set()
    desk.student.gate.clear()
    for _ in range(5):
        desk.receive_audio(1.0)
    await asyncio.sleep(0.02)
    assert desk.sequences == []
    desk.student.gate.set()
    await until(lambda: len(desk.sequences) == 2)
    assert desk.sequences == [1, 5], "the oldest requested, then the newest due"


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
    desk.receive_audio(3.0)  # read before the call migrated
    await until(lambda: desk.call.session.backlog.blocks == 0)
    desk.call.request_checkpoint()
    desk.call.close_responses()
    await until(lambda: desk.sequences)
    await asyncio.sleep(0.02)
    assert desk.sequences == [1]
    assert desk.sent[-1].HasField("checkpoint")


async def test_migrating_call_processes_no_audio(desk):
    desk.receive_audio(0.5)
    desk.student.gate.clear()
    desk.call.migrate()
    desk.incoming = [sound(2, bytes(1600))]
    reader = asyncio.create_task(desk.call.receive_all(desk))
    await asyncio.sleep(0.02)
    assert desk.receive_audio_now(sound(2, bytes(1600))) is False
    assert not reader.done()
    assert desk.call.session.audio_seconds == 0.5
    desk.student.gate.set()
    await reader
    assert desk.call.session.audio_seconds == 0.5
    assert desk.call.stopped.result().status == "UNAVAILABLE"


async def test_call_without_audio_has_no_checkpoint(desk):
    desk.may_send.set()
    desk.call.request_checkpoint()
    await asyncio.sleep(0.02)
    assert desk.sent == []
    desk.call.migrate()
    assert desk.call.stopped.done()
