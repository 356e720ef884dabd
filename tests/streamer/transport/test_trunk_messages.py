"""What travels on a trunk: coded lines are the public ones, and messages stay small."""

import asyncio

from google.rpc import code_pb2
from hypothesis import given
from hypothesis import strategies as st

from streamer.rpc import envelope_pb2 as envelope
from streamer.rpc import trunk_pb2 as trunk
from streamer.rpc import voicecohort_pb2 as pb
from streamer.transport import trunk as served
from tests.streamer.in_process import Context

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


async def test_unexpected_exception_ends_a_line_with_internal():
    """The other lines continue."""

    class Broken:
        draining = asyncio.Event()

        def authorize(self, _):
            return "gateway-7"

        def trunk_message_received(self, calls):
            pass

        def response_delay(self):
            return 0.0

        async def serve(self, line):
            if line.number == 1:
                raise ArithmeticError
            await line.read()

    class Stream(Context):
        ends = {}  # noqa: RUF012 - of this test

        async def write(self, message):
            self.ends |= {line.line: line.end for line in message.lines}

    both = [envelope.LineRequest(line=line, request=b"") for line in (1, 2)]
    stream = Stream(envelope.StreamTrunkRequest(lines=both), served.EOF)
    await served.TrunkService(Broken(), 10, 5.0).StreamTrunk(None, stream)
    assert stream.ends[1].code == code_pb2.INTERNAL
    assert stream.ends[1].message == "the server failed on this call: ArithmeticError"
    assert stream.ends[2].code == code_pb2.OK
