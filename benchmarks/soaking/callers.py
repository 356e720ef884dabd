"""Callers of every kind but the normal one: faults of gateways and networks.

Each kind runs repeatedly, a few calls at a time, with pauses between. That bounds their rate, and
so their cost to the server. Each kind lists the statuses that its calls may end with.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import load.generator  # noqa: F401 - sets how gRPC polls, before gRPC is imported

# isort: split
import grpc
import uvloop
from soaking import kinds
from soaking.connection import (
    HIDDEN_STATUS,
    REFUSED,
    Caller,
    Context,
    UnexpectedResponse,
    connect,
)

from streamer.audio.codec import SAMPLE_RATE
from streamer.rpc import voicecohort_pb2 as pb

NICE = 5
"""Lower priority than the process that measures latency on the same core."""


@dataclass(frozen=True)
class Kind:
    """One kind of caller.

    Attributes:
        call: runs one call; returns the name of the status it ended with.
        ends: expected statuses.
        at_a_time: calls at the same time.
        pause: mean seconds between two calls of a repetition.
        correct: the call must never be refused.
    """

    call: Callable[[Context], Awaitable[str]]
    ends: frozenset[str]
    at_a_time: int = 1
    pause: float = 1.0
    correct: bool = False


INVALID = "INVALID_ARGUMENT"


def _config(**fields: object) -> bytes:
    return Caller.config(**({"encoding": 1, "sample_rate": SAMPLE_RATE} | fields))


def _audio(data: bytes) -> bytes:
    return pb.StreamClassifyRequest(audio=pb.Audio(data=data)).SerializeToString()


def _control(**fields: Any) -> bytes:  # noqa: ANN401 - of a protobuf message
    return pb.StreamClassifyRequest(control=pb.Control(**fields)).SerializeToString()


MALFORMED: dict[str, tuple[dict[str, object] | None, bytes, str]] = {
    # name: config that is sent and accepted first (None: none), bytes, expected status
    "undecodable": ({}, b"\xff" * 10, INVALID),
    "undecodable first": (None, b"\xff" * 10, INVALID),
    "encoding": (None, _config(encoding=0), INVALID),
    "rate": (None, _config(sample_rate=44100), INVALID),
    "channels": (None, _config(channels=[pb.ChannelConfig()] * 3), INVALID),
    "call id": (None, _config(call_id="x" * 129), INVALID),
    "audio first": (None, _audio(b"1"), "FAILED_PRECONDITION"),
    "config twice": ({}, _config(), "FAILED_PRECONDITION"),
    "half a sample": ({"encoding": pb.AUDIO_ENCODING_LINEAR16}, _audio(b"123"), INVALID),
    "no audio": ({}, _audio(b""), INVALID),
    "nothing": ({}, b"", INVALID),
    "long chunk": ({}, _audio(bytes(11 * SAMPLE_RATE)), "RESOURCE_EXHAUSTED"),
    "oversize": ({}, _audio(bytes(2_000_000)), "RESOURCE_EXHAUSTED"),
    "finish a channel": ({}, _control(channels=[0], finish=pb.Finish()), INVALID),
    "unknown channel": ({}, _control(channels=[7], hold=pb.Hold()), INVALID),
}


async def malformed(context: Context) -> str:
    """Send one malformed message."""
    name = context.random.choice(list(MALFORMED))
    config, data, expected = MALFORMED[name]
    caller = Caller(context.channel)
    if config is not None and not await caller.begin(**config):
        return await caller.refusal()
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        await caller.stream.write(data)
    status = await caller.end()
    if config is None and status in {"RESOURCE_EXHAUSTED", HIDDEN_STATUS}:
        return REFUSED
    return "as expected" if status == expected else f"{name}: {status} instead of {expected}"


LIMITED = ("RESOURCE_EXHAUSTED", HIDDEN_STATUS)
"""A limit of the server; a write may have hidden the status."""
KINDS = {
    "stereo at 16 kHz": Kind(kinds.stereo, frozenset({"OK"}), at_a_time=2, correct=True),
    "silence": Kind(kinds.silence, frozenset({"OK"}), at_a_time=3, correct=True),
    "resumed": Kind(kinds.resumed, frozenset({"OK"}), at_a_time=2, correct=True),
    "on a trunk": Kind(kinds.on_trunk, frozenset({"OK"}), correct=True),
    "cut trunk": Kind(kinds.cut_trunk, frozenset({"cut off"})),
    "cut off": Kind(kinds.cut_off, frozenset({"cut off"}), at_a_time=2),
    "half-open": Kind(kinds.half_open, frozenset({"closed by the server"}), at_a_time=4),
    "idle": Kind(kinds.idle, frozenset({"DEADLINE_EXCEEDED"}), at_a_time=2),
    "no config": Kind(kinds.no_config, frozenset({"DEADLINE_EXCEEDED"}), at_a_time=3),
    "slow reader": Kind(
        kinds.slow_reader,
        frozenset({"OK", "DEADLINE_EXCEEDED", *LIMITED}),
        at_a_time=2,
    ),
    "files": Kind(kinds.files, frozenset({"OK", *LIMITED}), pause=4.0),
    "tiny messages": Kind(kinds.tiny, frozenset({"OK", *LIMITED}), pause=4.0),
    "malformed": Kind(malformed, frozenset({"as expected"}), at_a_time=2, pause=0.5),
    "cancelled": Kind(kinds.cancelled, frozenset({"CANCELLED"}), at_a_time=2, pause=0.5),
}


@dataclass(frozen=True)
class CallersPlan:
    """Callers of one process.

    Attributes:
        target: HOST:PORT.
        begin, end: on the clock of ``time.monotonic``; calls that run at the end are cancelled.
        kinds: names in :data:`KINDS`.
        rate: factor on the calls of each kind.
        answers: see :class:`soaking.connection.Context`.
        seed: of pauses and choices.
    """

    target: str
    begin: float
    end: float
    kinds: tuple[str, ...] = ()
    rate: float = 1.0
    answers: Mapping[str, tuple[bytes, ...]] = field(default_factory=dict)
    seed: int = 1


@dataclass
class Tally:
    """How the calls of each kind ended.

    Attributes:
        ends: by kind and status.
        unexpected: "kind: status" of calls with another end than expected.
        refused_good: correct calls that were refused.
    """

    ends: dict[str, Counter[str]] = field(default_factory=dict)
    unexpected: list[str] = field(default_factory=list)
    refused_good: int = 0


class Callers:
    """Runs one plan."""

    def __init__(self, plan: CallersPlan) -> None:
        self.plan = plan
        self.tally = Tally({name: Counter() for name in plan.kinds})

    async def run(self) -> Tally:
        """Run all kinds until the end."""
        plan = self.plan
        await asyncio.sleep(plan.begin - time.monotonic())
        async with contextlib.AsyncExitStack() as stack:
            channels = {name: connect(plan.target) for name in plan.kinds}
            for channel in channels.values():
                stack.push_async_callback(channel.close)
            repetitions = [
                asyncio.create_task(self._repeat(name, channel, number))
                for name, channel in channels.items()
                for number in range(max(1, round(KINDS[name].at_a_time * plan.rate)))
            ]
            ended, running = await asyncio.wait(
                repetitions,
                timeout=plan.end - time.monotonic(),
                return_when=asyncio.FIRST_COMPLETED,
            )
            for repetition in running:
                repetition.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            for repetition in ended:  # only an error ends one
                repetition.result()
        return self.tally

    async def _repeat(self, name: str, channel: grpc.aio.Channel, number: int) -> None:
        kind = KINDS[name]
        chance = random.Random(f"{self.plan.seed} {name} {number}")
        context = Context(self.plan.target, channel, chance, self.plan.answers)
        await asyncio.sleep(chance.uniform(0, kind.pause))
        while True:
            try:
                ended = await kind.call(context)
            except (UnexpectedResponse, grpc.aio.AioRpcError, OSError, TimeoutError) as error:
                details = error.details() if isinstance(error, grpc.aio.AioRpcError) else error
                ended = f"{type(error).__name__}: {details}"
            self.tally.ends[name][ended] += 1
            if ended == REFUSED:
                self.tally.refused_good += kind.correct
            elif ended not in kind.ends:
                self.tally.unexpected.append(f"{name}: {ended}")
            await asyncio.sleep(kind.pause * chance.uniform(0.5, 1.5))


def run_callers(plan: CallersPlan) -> Tally:
    """Run a plan in this process."""
    os.nice(NICE)
    return uvloop.run(Callers(plan).run())
