"""The same RPCs with nothing behind them: what no server of ours can be cheaper than."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc

from load.calls import owed
from streamer.rpc import envelope_pb2 as envelope
from streamer.rpc import voicecohort_pb2 as pb
from streamer.rpc import voicecohort_pb2_grpc as pb_grpc
from streamer.transport.trunk import TrunkService


def canned() -> pb.StreamClassifyResponse:
    """A prediction as large as a real one."""

    def task(label: str, classes: int) -> pb.TaskPrediction:
        posterior = [0.5, *[0.5 / (classes - 1)] * (classes - 1)]
        return pb.TaskPrediction(posterior=posterior, label=label, confidence=0.5)

    prediction = pb.Prediction(
        sequence=1, gender=task("female", 2), age_group=task("young", 4), age_band=task("20s", 7)
    )
    for field in (prediction.audio_time, prediction.speech_time, prediction.lost_time):
        field.seconds, field.nanos = 12, 340_000_000
    return pb.StreamClassifyResponse(prediction=prediction)


class EmptyServicer(pb_grpc.ClassifierServiceServicer):
    """Reads, and answers what was made beforehand.

    Args:
        chunk_ms: audio in a message.
    """

    def __init__(self, chunk_ms: int) -> None:
        self._chunk_ms = chunk_ms

    async def StreamClassify(  # type: ignore[override]  # noqa: N802 - the name is the protocol's
        self,
        request_iterator: AsyncIterator[pb.StreamClassifyRequest],  # noqa: ARG002 - read() instead
        context: grpc.aio.ServicerContext[pb.StreamClassifyRequest, pb.StreamClassifyResponse],
    ) -> None:
        """One call."""
        answer, sequence = canned(), 0
        while True:
            request: Any = await context.read()
            if request is grpc.aio.EOF:
                break
            sequence = request.audio.sequence
            if not sequence:
                await context.write(pb.StreamClassifyResponse(started=pb.Started()))
            elif owed(sequence, self._chunk_ms):
                answer.prediction.sequence = sequence
                await context.write(answer)
        answer.prediction.final = True
        await context.write(answer)


class EmptyTrunks(TrunkService):
    """The same on trunks: what a message brings is answered by one.

    Args:
        chunk_ms: audio in a message of a call.
    """

    def __init__(self, chunk_ms: int) -> None:
        self._chunk_ms = chunk_ms
        self._started = pb.StreamClassifyResponse(started=pb.Started()).SerializeToString()

    async def StreamTrunk(  # noqa: N802 - the name is the protocol's
        self,
        request_iterator: AsyncIterator[envelope.StreamTrunkRequest],  # noqa: ARG002 - read() instead
        context: grpc.aio.ServicerContext[
            envelope.StreamTrunkRequest, envelope.StreamTrunkResponse
        ],
    ) -> None:
        """One trunk."""
        answer = canned()
        last: dict[int, int] = {}
        while True:
            message: Any = await context.read()
            if message is grpc.aio.EOF:
                break
            told = envelope.StreamTrunkResponse()
            for item in message.lines:
                request = pb.StreamClassifyRequest.FromString(item.request)
                sequence = last[item.line] = request.audio.sequence or last.get(item.line, 0)
                kind = request.WhichOneof("message")
                if kind == "config":
                    told.lines.add(line=item.line, response=self._started)
                elif kind == "control" or owed(sequence, self._chunk_ms):
                    answer.prediction.sequence = sequence
                    answer.prediction.final = kind == "control"
                    told.lines.add(line=item.line, response=answer.SerializeToString())
                if kind == "control":
                    told.lines.add(line=item.line, end=envelope.LineEnd())
            if told.lines:
                await context.write(told)
