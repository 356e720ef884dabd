"""Callers of every kind but the normal one: what gateways do to a server over the years.

Each kind runs again and again, a few at a time, with pauses between: their rate is bounded, so that
what they cost the server is bounded too. Each knows by which statuses its calls may end.
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

from load import polling  # noqa: F401 - how gRPC polls is settled when it is loaded

# isort: split
import grpc
import uvloop

from soaking import kinds, malformed, trunks
from soaking.stream import CLOAKED, REFUSED, World, Wrong, connect

NICE = 5
"""Below the process that measures latency on the same core."""


@dataclass(frozen=True)
class Kind:
    """One kind of caller.

    Attributes:
        call: one call; returns the name of the status it ended with.
        ends: statuses that are right.
        at_a_time: calls side by side.
        pause: seconds between two calls of a line, on average.
        good: it does nothing wrong, so it must never be refused.
    """

    call: Callable[[World], Awaitable[str]]
    ends: frozenset[str]
    at_a_time: int = 1
    pause: float = 1.0
    good: bool = False


LIMITED = ("RESOURCE_EXHAUSTED", CLOAKED)
"""A limit of the server, whose status a write may have run into."""
KINDS = {
    "stereo at 16 kHz": Kind(kinds.stereo, frozenset({"OK"}), at_a_time=2, good=True),
    "silence": Kind(kinds.silence, frozenset({"OK"}), at_a_time=3, good=True),
    "resumed": Kind(kinds.moved, frozenset({"OK"}), at_a_time=2, good=True),
    "on a trunk": Kind(trunks.on_trunk, frozenset({"OK"}), good=True),
    "cut trunk": Kind(trunks.cut_trunk, frozenset({"cut off"})),
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
    "malformed": Kind(malformed.malformed, frozenset({"as expected"}), at_a_time=2, pause=0.5),
    "cancelled": Kind(kinds.cancelled, frozenset({"CANCELLED"}), at_a_time=2, pause=0.5),
}


@dataclass(frozen=True)
class CallersPlan:
    """What the process is to do.

    Attributes:
        target: HOST:PORT.
        begin, end: on the clock of ``time.monotonic``; what runs at the end is cancelled.
        rate: times as many of each kind.
        answers: see :class:`soaking.stream.World`.
        seed: of pauses and choices.
    """

    target: str
    begin: float
    end: float
    rate: float = 1.0
    answers: Mapping[str, tuple[bytes, ...]] = field(default_factory=dict)
    seed: int = 1


@dataclass
class Tally:
    """How the calls of each kind ended.

    Attributes:
        ends: by kind and status.
        unexpected: "kind: what", of those that ended as they must not.
        refused_good: calls that did nothing wrong and were refused.
    """

    ends: dict[str, Counter[str]] = field(default_factory=dict)
    unexpected: list[str] = field(default_factory=list)
    refused_good: int = 0


class Callers:
    """Runs one plan."""

    def __init__(self, plan: CallersPlan) -> None:
        self.plan = plan
        self.tally = Tally({name: Counter() for name in KINDS})

    async def run(self) -> Tally:
        """All kinds until the end."""
        plan = self.plan
        await asyncio.sleep(plan.begin - time.monotonic())
        async with contextlib.AsyncExitStack() as stack:
            channels = {name: connect(plan.target) for name in KINDS}
            for channel in channels.values():
                stack.push_async_callback(channel.close)
            lines = [
                asyncio.create_task(self._line(name, kind, channels[name], number))
                for name, kind in KINDS.items()
                for number in range(max(1, round(kind.at_a_time * plan.rate)))
            ]
            ended, running = await asyncio.wait(
                lines,
                timeout=plan.end - time.monotonic(),
                return_when=asyncio.FIRST_COMPLETED,
            )
            for line in running:
                line.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            for line in ended:  # a line goes on for ever
                line.result()
        return self.tally

    async def _line(self, name: str, kind: Kind, channel: grpc.aio.Channel, number: int) -> None:
        chance = random.Random(f"{self.plan.seed} {name} {number}")
        world = World(self.plan.target, channel, chance, self.plan.answers)
        await asyncio.sleep(chance.uniform(0, kind.pause))
        while True:
            try:
                ended = await kind.call(world)
            except (Wrong, grpc.aio.AioRpcError, OSError, TimeoutError) as error:
                details = error.details() if isinstance(error, grpc.aio.AioRpcError) else error
                ended = f"{type(error).__name__}: {details}"
            self.tally.ends[name][ended] += 1
            if ended == REFUSED:
                self.tally.refused_good += kind.good
            elif ended not in kind.ends:
                self.tally.unexpected.append(f"{name}: {ended}")
            await asyncio.sleep(kind.pause * chance.uniform(0.5, 1.5))


def misbehave(plan: CallersPlan) -> Tally:
    """Run a plan in this process."""
    os.nice(NICE)
    return uvloop.run(Callers(plan).run())
