"""The gateway of a made-up call: what it does, step by step, and what it gets to see."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import grpc
from google.protobuf.message import DecodeError

from streamer.rpc import voicecohort_pb2 as pb

STALL_SECONDS = 0.02
"""After which a gateway that does not read gives up; the service itself would wait for minutes."""


class Undecodable:
    """A message that protobuf cannot parse."""


class Pause:
    """Let the others work for a few turns of the loop."""


class Stall:
    """The gateway reads no more responses."""


class Cancel:
    """The gateway cancels the stream."""


Step = pb.StreamClassifyRequest | type[Undecodable | Pause | Stall | Cancel]


@dataclass(repr=False)
class Ending:
    """Of one stream."""

    status: str = ""
    details: str = ""
    responses: list[pb.StreamClassifyResponse] = field(default_factory=list)

    def __repr__(self) -> str:
        """Short enough for the end of a report."""
        kinds = [response.WhichOneof("message") for response in self.responses]
        return f"{self.status}: {self.details} after {kinds}"

    @property
    def finals(self) -> list[pb.Prediction]:
        """Final predictions."""
        return [r.prediction for r in self.responses if r.prediction.final]


class Context:
    """What the service sees of a stream, in place of gRPC's.

    Args:
        script: what the gateway does, in order; then it half-closes.
        before: awaited before each step, with its number.
    """

    def __init__(
        self, script: Sequence[Step], before: Callable[[int], Awaitable[None]] | None = None
    ) -> None:
        self.ending = Ending()
        self._script = enumerate(script)
        self._before = before
        self._stalled = False
        self.cancel: Callable[[], object] = lambda: None

    async def read(self):
        """The next request, or gRPC's mark of the end."""
        for number, step in self._script:
            if self._before is not None:
                await self._before(number)
            if isinstance(step, pb.StreamClassifyRequest):
                await asyncio.sleep(0)
                return step
            if step is Undecodable:
                raise DecodeError("made up")
            if step is Pause:
                await asyncio.sleep(0.0005)
            elif step is Stall and not self._stalled:
                self._stalled = True
                asyncio.get_running_loop().call_later(STALL_SECONDS, self.cancel)
            elif step is Cancel:
                self.cancel()
                await asyncio.Event().wait()
        return grpc.aio.EOF

    async def write(self, response):
        """Keep a response."""
        assert not self.ending.status, "a response behind the status"
        if self._stalled:
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        # As bytes and back: what gRPC could not send must fail here too.
        self.ending.responses.append(
            pb.StreamClassifyResponse.FromString(response.SerializeToString())
        )

    async def abort(self, code, details="", trailing_metadata=()):
        """End with a status, as gRPC does: by raising."""
        assert isinstance(code, grpc.StatusCode)
        assert isinstance(details, str)
        assert all(isinstance(value, bytes | str) for _, value in trailing_metadata)
        self.ending.status, self.ending.details = code.name, details
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


def check_responses(ending: Ending) -> None:
    """Timeline and sense of what a stream got."""
    kinds = [response.WhichOneof("message") for response in ending.responses]
    assert None not in kinds
    assert kinds[:1] in ([], ["started"])
    assert "started" not in kinds[1:]
    done, acknowledged = set(), {}
    for response in ending.responses:
        if not response.HasField("prediction"):
            continue
        prediction = response.prediction
        channel = prediction.channel
        assert channel not in done, "a prediction after the final one"
        assert prediction.sequence >= acknowledged.get(channel, 0)
        acknowledged[channel] = prediction.sequence
        if prediction.final:
            done.add(channel)
        for task in (prediction.gender, prediction.age_group, prediction.age_band):
            assert abs(sum(task.posterior) - 1) < 1e-3
            assert 0 <= task.confidence <= 1
            assert bool(task.label) != bool(task.undecided)
    if ending.status == "OK":
        assert done, "a good end without a final prediction"
