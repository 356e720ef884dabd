"""The memory of a call is free when the call is over, not when Python next looks for cycles."""

import gc
import sys
import weakref
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the fuzzer's modules import each other by name

import campaign
import gateway
import house as houses
import structlog

from streamer.call.call import Call
from streamer.rpc import voicecohort_pb2 as pb


@pytest.fixture(scope="module")
def house(run_async):
    before = structlog.get_config()
    campaign.quiet()
    made = houses.House(run_async)
    yield made
    made.close()
    structlog.configure(**before)


def resumable():
    """A good call that asks for checkpoints."""
    first = pb.StreamClassifyRequest()
    first.CopyFrom(houses.witness_requests()[0])
    first.config.checkpoint_interval.FromSeconds(1)
    return [first, *houses.witness_requests()[1:], *[gateway.Pause] * 10]


def scripts():
    good = list(houses.witness_requests())
    return {
        "finished": good,
        "with checkpoints": resumable(),
        "empty message": [*good[:4], pb.StreamClassifyRequest()],
        "undecodable": [*good[:4], gateway.Undecodable],
        "cancelled": [*good[:4], gateway.Pause, gateway.Cancel],
        "unread": [*good[:4], gateway.Stall, *good[4:]],
    }


@pytest.mark.parametrize("name", scripts())
def test_an_ended_call_waits_for_no_collector(name, house, monkeypatch):
    calls = []
    begin = Call.__init__

    def noted(call, *args, **kwargs):
        begin(call, *args, **kwargs)
        calls.append(weakref.ref(call))

    monkeypatch.setattr(Call, "__init__", noted)
    gc.collect()
    gc.disable()
    try:
        # The last of them may still be held by what asyncio did last.
        for script in (scripts()[name], scripts()[name], [gateway.Undecodable]):
            house._run(house.call(script))
        assert len(calls) == 2
        assert [call() for call in calls] == [None, None]
    finally:
        gc.enable()
