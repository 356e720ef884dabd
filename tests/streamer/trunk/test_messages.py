"""What travels on a trunk: coded lines are the public ones, and messages stay small."""

import asyncio

import pytest
from google.rpc import code_pb2
from hypothesis import given
from hypothesis import strategies as st

from streamer import trunk as served
from streamer.errors import ReadTimeout
from streamer.rpc import envelope_pb2 as envelope
from streamer.rpc import trunk_pb2 as trunk
from streamer.rpc import voicecohort_pb2 as pb

numbers = st.integers(0, 2**64 - 1)
audio = st.builds(pb.Audio, sequence=numbers, data=st.binary(max_size=20))
requests = st.one_of(
    st.builds(pb.StreamClassifyRequest, audio=audio),
    st.builds(pb.StreamClassifyRequest, config=st.builds(pb.StreamConfig, call_id=st.text())),
)
responses = st.builds(
    pb.StreamClassifyResponse, prediction=st.builds(pb.Prediction, sequence=numbers)
)
line_requests = st.one_of(
    st.builds(trunk.LineRequest, line=numbers, request=requests, traceparent=st.text()),
    st.builds(trunk.LineRequest, line=numbers, leave=st.just(trunk.Leave())),
    st.builds(trunk.LineRequest, line=numbers),
)
line_responses = st.one_of(
    st.builds(trunk.LineResponse, line=numbers, response=responses),
    st.builds(
        trunk.LineResponse,
        line=numbers,
        end=st.builds(trunk.LineEnd, code=st.integers(0, 16), message=st.text()),
    ),
    st.builds(trunk.LineResponse, line=numbers, taken=st.builds(trunk.Taken, bytes=numbers)),
)


@given(st.lists(line_requests, max_size=5))
def test_coded_requests_are_the_public_ones(lines):
    public = trunk.StreamTrunkRequest(lines=lines)
    coded = envelope.StreamTrunkRequest.FromString(public.SerializeToString())
    for ours, theirs in zip(coded.lines, public.lines, strict=True):
        assert ours.line == theirs.line
        assert ours.traceparent.decode() == theirs.traceparent
        assert ours.HasField("leave") == theirs.HasField("leave")
        assert pb.StreamClassifyRequest.FromString(ours.request) == theirs.request
    assert trunk.StreamTrunkRequest.FromString(coded.SerializeToString()) == public


@given(st.lists(line_responses, max_size=5))
def test_coded_responses_are_the_public_ones(lines):
    public = trunk.StreamTrunkResponse(lines=lines)
    coded = envelope.StreamTrunkResponse.FromString(public.SerializeToString())
    assert trunk.StreamTrunkResponse.FromString(coded.SerializeToString()) == public
    for ours, theirs in zip(coded.lines, public.lines, strict=True):
        assert ours.WhichOneof("event") == theirs.WhichOneof("event")
        assert pb.StreamClassifyResponse.FromString(ours.response) == theirs.response
        assert (ours.end.code, ours.end.message) == (theirs.end.code, theirs.end.message)
        assert ours.taken.bytes == theirs.taken.bytes


class Slow:
    """A stream whose reader takes one message when told to."""

    def __init__(self):
        self.taken = []
        self.may = asyncio.Semaphore(0)

    async def write(self, message):
        await self.may.acquire()
        self.taken.append(message)


def response(size, line=1):
    return envelope.LineResponse(line=line, response=bytes(size))


def test_what_waits_is_sent_together_in_messages_of_a_megabyte(run_async):
    sizes = [10, 300_000, 800_000, 5, 2_000_000, 7, 7]

    async def main():
        outgoing, slow = served.Outgoing(), Slow()
        sending = asyncio.create_task(outgoing.send_all(slow))
        assert outgoing.say(response(1)) is None  # nothing is in its way
        await asyncio.sleep(0.01)
        rest = [outgoing.say(response(size)) for size in sizes]
        slow.may.release()
        await asyncio.sleep(0.01)
        assert not any(sent.is_set() for sent in rest)
        for _ in range(10):
            slow.may.release()
        await asyncio.gather(*(sent.wait() for sent in rest))
        assert outgoing.say(response(3)) is None
        outgoing.complete()
        await sending
        return slow.taken

    taken = [[len(line.response) for line in message.lines] for message in run_async(main())]
    assert taken == [[1], [10, 300_000, 800_000], [5, 2_000_000], [7, 7], [3]]


def test_a_gateway_that_does_not_read_is_not_read_either(run_async):
    async def main():
        outgoing, slow = served.Outgoing(), Slow()
        sending = asyncio.create_task(outgoing.send_all(slow))
        for _ in range(11):
            outgoing.say(response(1))
        waiting = asyncio.create_task(outgoing.at_most(10, 20.0))
        await asyncio.sleep(0.01)  # all 11 are on their way, none waits behind them
        assert waiting.done()
        for _ in range(11):
            outgoing.say(response(1))
        waiting = asyncio.create_task(outgoing.at_most(10, 20.0))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        slow.may.release()
        await waiting
        for _ in range(11):
            outgoing.say(response(1))
        with pytest.raises(ReadTimeout, match=r"not read for 0\.01 s"):
            await outgoing.at_most(10, 0.01)
        sending.cancel()

    run_async(main())


def test_what_nobody_expected_ends_a_line_with_internal(run_async):
    """The gateway is told, and the trunk goes on."""

    class Broken:
        draining = asyncio.Event()

        def must_serve(self, _):
            return "gateway-7"

        def heard(self, calls):
            pass

        async def serve(self, line):
            if line.number == 1:
                raise ArithmeticError
            await line.read()

    class Context(Slow):
        def __init__(self, *messages):
            super().__init__()
            self.messages = list(messages)
            for _ in range(10):
                self.may.release()

        def peer(self):
            return "ipv4:192.0.2.1:4711"

        def auth_context(self):
            return {}

        def invocation_metadata(self):
            return ()

        async def read(self):
            return self.messages.pop(0)

    async def main():
        both = [envelope.LineRequest(line=line, request=b"") for line in (1, 2)]
        context = Context(envelope.StreamTrunkRequest(lines=both), served.EOF)
        await served.TrunkService(Broken(), 10, 5.0).StreamTrunk(None, context)
        return {line.line: line.end for message in context.taken for line in message.lines}

    ends = run_async(main())
    assert ends[1].code == code_pb2.INTERNAL
    assert ends[1].message == "the server failed on this call: ArithmeticError"
    assert ends[2].code == code_pb2.OK
