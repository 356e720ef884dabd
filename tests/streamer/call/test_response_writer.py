"""Responses are written at once or in turn; never twice, never out of order."""

import asyncio
from dataclasses import dataclass, field

import pytest

from streamer.call.responses import ResponseWriter
from streamer.inference.decision import Decider
from streamer.observability.metrics import Metrics
from streamer.observability.tracing import NO_TRACE
from streamer.rpc import voicecohort_pb2 as pb
from streamer.session.events import Update


@dataclass
class Writer:
    """Writes into lists; :meth:`write` when it may."""

    writable: bool = True
    now: list = field(default_factory=list)
    later: list = field(default_factory=list)
    may: asyncio.Event = field(default_factory=asyncio.Event)

    def try_write(self, response):
        assert self.writable
        self.now.append(response.prediction.sequence)

    async def write(self, response):
        await self.may.wait()
        self.later.append(response.prediction.sequence)


def update(sequence, channel=0, final=False):
    return Update(channel, sequence, 1.0, 0.0, 0.0, None, final, 3.0)


@pytest.fixture
def write(run_async, make_student):
    """Run a scenario with a response writer and its stream."""

    def run_scenario(scenario):
        async def main():
            metrics, writer = Metrics(), Writer()
            decider = Decider(make_student().metadata)
            responses = ResponseWriter(decider, 0.0, None, metrics, NO_TRACE, lambda: 4.0)
            writing = asyncio.create_task(responses.write_all(writer))
            await asyncio.sleep(0)
            await scenario(responses, writer)
            writer.may.set()
            responses.queue.close()
            await asyncio.wait_for(writing, 5.0)
            return writer, metrics

        return run_async(main())

    return run_scenario


def test_idle_writer_writes_at_once(write):
    async def scenario(responses, writer):
        responses.send(update(1))
        responses.send(update(2))
        assert writer.now == [1, 2]

    writer, metrics = write(scenario)
    assert writer.later == []
    assert metrics._latency._sum.get() == 2.0


def test_busy_writer_queues_the_newest(write):
    """Then the newest prediction of a channel replaces the one that waits."""

    async def scenario(responses, writer):
        writer.writable = False
        for item in (update(1), update(2, channel=1), update(3)):
            responses.send(item)
        assert len(responses.queue) == 2
        writer.writable = True

    writer, metrics = write(scenario)
    assert (writer.now, writer.later) == ([], [2, 3])
    assert metrics._latency._sum.get() == 2.0


def test_queued_responses_keep_their_order(write):
    async def scenario(responses, writer):
        writer.writable = False
        responses.send(update(1))
        writer.writable = True
        responses.send(update(2, channel=1))  # the task has not been woken for the first
        await asyncio.sleep(0.01)
        responses.send(update(3))  # the first is being written
        assert writer.now == []

    writer, _ = write(scenario)
    assert (writer.now, writer.later) == ([], [1, 2, 3])


def test_final_prediction_has_no_latency(write):
    async def scenario(responses, _):
        responses.send(update(1, final=True))

    writer, metrics = write(scenario)
    assert writer.now == [1]
    assert metrics._latency._sum.get() == 0.0


async def test_without_a_writer_responses_are_queued(make_student):
    writer = Writer()
    decider = Decider(make_student().metadata)
    responses = ResponseWriter(decider, 0.0, None, Metrics(), NO_TRACE, lambda: 4.0)
    responses.send(pb.StreamClassifyResponse(started=pb.Started()))
    assert len(responses.queue) == 1
    writing = asyncio.create_task(responses.write_all(writer))
    await asyncio.sleep(0)
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    responses.send(update(2))
    assert (writer.now, len(responses.queue)) == ([], 1)
