"""What a call says is written at once or in turn; never twice, never out of turn."""

import asyncio
from dataclasses import dataclass, field

import pytest

from streamer.call.responses import Teller
from streamer.inference.decision import Decider
from streamer.observability.metrics import Metrics
from streamer.observability.tracing import NO_TRACE
from streamer.rpc import voicecohort_pb2 as pb
from streamer.session.channel import Update


@dataclass
class Writer:
    """Writes into lists; :meth:`write` when it may."""

    free: bool = True
    now: list = field(default_factory=list)
    later: list = field(default_factory=list)
    may: asyncio.Event = field(default_factory=asyncio.Event)

    def write_now(self, response):
        assert self.free
        self.now.append(response.prediction.sequence)

    async def write(self, response):
        await self.may.wait()
        self.later.append(response.prediction.sequence)


def update(sequence, channel=0, final=False):
    return Update(channel, sequence, 1.0, 0.0, 0.0, None, final, 3.0)


@pytest.fixture
def told(run_async, make_student):
    """Run a scenario with a teller, a writer, and the metrics of predictions."""

    def told_(scenario):
        async def main():
            metrics, writer = Metrics(), Writer()
            decider = Decider(make_student().metadata)
            teller = Teller(decider, 0.0, None, metrics, NO_TRACE, lambda: 4.0)
            writing = asyncio.create_task(teller.write_all(writer))
            await asyncio.sleep(0)
            await scenario(teller, writer)
            writer.may.set()
            teller.unsent.complete()
            await asyncio.wait_for(writing, 5.0)
            return writer, metrics

        return run_async(main())

    return told_


def latencies(metrics):
    return metrics._latency._sum.get()


def test_nothing_in_the_way(told):
    async def scenario(teller, writer):
        teller.say(update(1))
        teller.say(update(2))
        assert writer.now == [1, 2]

    writer, metrics = told(scenario)
    assert writer.later == []
    assert latencies(metrics) == 2.0


def test_a_writer_that_is_not_free(told):
    """Then the newest prediction of a channel replaces the one that waits."""

    async def scenario(teller, writer):
        writer.free = False
        for item in (update(1), update(2, channel=1), update(3)):
            teller.say(item)
        assert len(teller.unsent) == 2
        writer.free = True

    writer, metrics = told(scenario)
    assert (writer.now, writer.later) == ([], [2, 3])
    assert latencies(metrics) == 2.0


def test_what_waits_is_not_overtaken(told):
    async def scenario(teller, writer):
        writer.free = False
        teller.say(update(1))
        writer.free = True
        teller.say(update(2, channel=1))  # the task has not been woken for the first
        await asyncio.sleep(0.01)
        teller.say(update(3))  # the first is being written
        assert writer.now == []

    writer, _ = told(scenario)
    assert (writer.now, writer.later) == ([], [1, 2, 3])


def test_a_final_prediction_is_no_latency(told):
    async def scenario(teller, _):
        teller.say(update(1, final=True))

    writer, metrics = told(scenario)
    assert writer.now == [1]
    assert latencies(metrics) == 0.0


def test_before_and_after_its_task_everything_waits(run_async, make_student):
    async def main():
        writer = Writer()
        decider = Decider(make_student().metadata)
        teller = Teller(decider, 0.0, None, Metrics(), NO_TRACE, lambda: 4.0)
        teller.say(pb.StreamClassifyResponse(started=pb.Started()))
        assert len(teller.unsent) == 1
        writing = asyncio.create_task(teller.write_all(writer))
        await asyncio.sleep(0)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        teller.say(update(2))
        assert (writer.now, len(teller.unsent)) == ([], 1)

    run_async(main())
