"""A trunk, fed with messages of arbitrary bytes, beside a witness on a stream of its own."""

from __future__ import annotations

import asyncio
from collections import defaultdict

import grpc
import harness
import target_stream_raw
from gateway import Ending, check_responses
from google.rpc import code_pb2
from inputs import FuzzInput, pack

from streamer.rpc import envelope_pb2 as envelope
from streamer.rpc import voicecohort_pb2 as pb
from streamer.transport.trunk import TrunkService

MOST = 32
"""Messages of one input."""
PATIENCE = 20.0
"""Seconds; not what is fuzzed here."""


class Context:
    """What the servicer sees of a trunk, in place of gRPC's."""

    def __init__(self, script: list[bytes]) -> None:
        self.lines: dict[int, Ending] = defaultdict(Ending)
        self.opened: set[int] = set()
        self.status = ""
        self._script = iter(script)

    async def read(self):
        """The next message, or gRPC's mark of the end; raises DecodeError as gRPC does."""
        await asyncio.sleep(0)
        data = next(self._script, None)
        if data is None:
            return grpc.aio.EOF
        message = envelope.StreamTrunkRequest.FromString(data)
        for item in message.lines:
            if item.line > max(self.opened, default=-1):
                self.opened.add(item.line)
        return message

    async def write(self, message):
        """Store the responses, by line."""
        assert not self.status, "a message behind the status"
        await asyncio.sleep(0)
        response = envelope.StreamTrunkResponse.FromString(message.SerializeToString())
        assert response.lines
        for item in response.lines:
            assert item.line in self.opened
            ending = self.lines[item.line]
            assert not ending.status, "something behind the end of a line"
            kind = item.WhichOneof("event")
            if kind == "response":
                ending.responses.append(pb.StreamClassifyResponse.FromString(item.response))
            elif kind == "end":
                ending.status = code_pb2.Code.Name(item.end.code)
                ending.details = item.end.message
            else:
                assert kind == "taken"

    async def abort(self, code, details="", trailing_metadata=()):  # noqa: ARG002 - gRPC's
        """End with a status, as gRPC does: by raising."""
        assert details
        self.status = code.name
        raise grpc.aio.AbortError

    def peer(self):
        """Who calls."""
        return "ipv4:127.0.0.1:12345"

    def invocation_metadata(self):
        """None."""
        return ()

    def auth_context(self):
        """Of a plaintext connection."""
        return {}


def seeds() -> list[bytes]:
    """Good calls side by side, lines that are left, opened again or unknown, and no messages."""
    calls = target_stream_raw.seed_calls()
    side_by_side = [
        _message(*(_said(line, call[step]) for line, call in enumerate(some) if step < len(call)))
        for some in (calls[:4], calls[-4:])
        for step in range(max(len(call) for call in some))
    ]
    config, audio = calls[0][:2]
    odd = [
        _message(_said(5, config), envelope.LineRequest(line=5, leave=envelope.Leave())),
        _message(_said(5, audio), _said(4, config), envelope.LineRequest(line=2**64 - 1)),
        _message(_said(6, config), _said(6, audio), envelope.LineRequest(line=6, request=b"\xff")),
        _message(
            envelope.LineRequest(line=7, request=config.SerializeToString(), traceparent=b"\xff")
        ),
    ]
    one = [_message(*(_said(1, request) for request in call)) for call in calls]
    return [pack(side_by_side), pack(odd), *(pack([message]) for message in one), pack([b"\xff"])]


def _said(line: int, request: pb.StreamClassifyRequest) -> envelope.LineRequest:
    return envelope.LineRequest(line=line, request=request.SerializeToString())


def _message(*lines: envelope.LineRequest) -> bytes:
    return envelope.StreamTrunkRequest(lines=lines).SerializeToString()


def run(data: bytes) -> None:
    """One input: messages, each behind its length."""
    fuzz_input = FuzzInput(data)
    script: list[bytes] = []
    while fuzz_input.left and len(script) < MOST:
        script.append(fuzz_input.piece())
    here = harness.shared_harness()
    here.student.batches.clear()
    context = here.beside_the_witness(script, lambda script: _trunk(here, script))
    student = here.student
    failed = any({student.RAISES, student.NAN, student.INF} & {*b} for b in student.batches)
    assert context.status in {"", "INVALID_ARGUMENT"}
    for ending in context.lines.values():
        if context.status and not ending.status:
            continue  # ended with its trunk
        assert ending.status in harness.ALLOWED | ({"INTERNAL"} if failed else set()), ending
        assert bool(ending.details) == (ending.status != "OK")
        check_responses(ending)
    if not context.status:
        assert set(context.lines) == context.opened, "each line ends"
    assert here.engine.alive, "the engine's thread died"
    here.engine.health.mark_healthy()  # what its next probe would find


async def _trunk(here: harness.CallHarness, script: list[bytes]) -> Context:
    context = Context(script)
    await TrunkService(here.service, 10, PATIENCE).StreamTrunk(None, context)
    return context
