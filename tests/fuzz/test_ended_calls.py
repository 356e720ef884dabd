"""The memory of a call is free when the call is over, not when Python next looks for cycles."""

import gc
import sys
import weakref
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the fuzzer's modules import each other by name

import campaign
import gateway
import harness
import structlog

from streamer.call.call import Call
from streamer.rpc import voicecohort_pb2 as pb


@pytest.fixture(scope="module")
def calls(run_async):
    before = structlog.get_config()
    campaign.quiet()
    made = harness.CallHarness(run_async)
    yield made
    made.close()
    structlog.configure(**before)


def resumable():
    """A good call that asks for checkpoints."""
    first = pb.StreamClassifyRequest()
    first.CopyFrom(harness.witness_requests()[0])
    first.config.checkpoint_interval.FromSeconds(1)
    return [first, *harness.witness_requests()[1:], *[gateway.Pause] * 10]


def scripts():
    good = list(harness.witness_requests())
    return {
        "finished": good,
        "with checkpoints": resumable(),
        "empty message": [*good[:4], pb.StreamClassifyRequest()],
        "undecodable": [*good[:4], gateway.Undecodable],
        "cancelled": [*good[:4], gateway.Pause, gateway.Cancel],
        "unread": [*good[:4], gateway.Stall, *good[4:]],
    }


@pytest.mark.parametrize("name", scripts())
def test_an_ended_call_is_freed_without_the_collector(name, calls, monkeypatch):
    references = []
    begin = Call.__init__

    def noted(call, *args, **kwargs):
        begin(call, *args, **kwargs)
        references.append(weakref.ref(call))

    monkeypatch.setattr(Call, "__init__", noted)
    gc.collect()
    gc.disable()
    try:
        # The last of them may still be held by what asyncio did last.
        for script in (scripts()[name], scripts()[name], [gateway.Undecodable]):
            calls._run(calls.call(script))
        assert len(references) == 2
        assert [reference() for reference in references] == [None, None]
    finally:
        gc.enable()
