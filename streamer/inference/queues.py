"""Queues between the calls and the inference thread: blocks in, results out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import structlog

from streamer.audio.codec import Samples
from streamer.errors import CallError, ServerFault
from streamer.inference.batch import Posteriors
from streamer.inference.metadata import Memory


class Lane:
    """One channel of one call, as the engine sees it.

    Args:
        memory: of a call that has not begun.
        on_step: called with the posteriors after each block, or with an error, at most once,
            after which nothing more comes. Runs where the engine's ``deliver`` runs it.
    """

    __slots__ = ("closed", "failed", "memory", "on_step", "pending", "queued", "since")

    def __init__(self, memory: Memory, on_step: Callable[[Posteriors | CallError], None]) -> None:
        self.memory = memory
        self.on_step = on_step
        self.pending: deque[Samples | Mark] = deque()
        self.queued = False  # among the ready ones or in the running batch
        self.since = 0.0  # when it became ready
        self.failed = False  # an error is under way to it
        self.closed = False

    def next_block(self, outbox: Outbox) -> Samples | None:
        """The block that is next, left where it is; marks before it are answered."""
        while self.pending:
            item = self.pending[0]
            if not isinstance(item, Mark):
                return item
            item.memory = self.memory.copy()
            outbox.put(self, item)
            self.pending.popleft()
        return None

    def remember(self, memory: Memory) -> None:
        """Take over a copy of it."""
        self.memory.state[:], self.memory.cache[:] = memory


class Ready:
    """Lanes with something pending, the one that waited longest first. Not safe by itself.

    Args:
        gather: seconds that the first of a batch waits for others.
        clock: seconds, monotonic.
    """

    def __init__(self, gather: float, clock: Callable[[], float]) -> None:
        self._gather = gather
        self._clock = clock
        self._lanes: deque[Lane] = deque()
        self._until = 0.0

    def __len__(self) -> int:
        return len(self._lanes)

    @property
    def first(self) -> Lane:
        """The one that waited longest."""
        return self._lanes[0]

    @property
    def waited(self) -> float:
        """Seconds that the first has waited; 0 if none does."""
        return self._clock() - self._lanes[0].since if self._lanes else 0.0

    def put(self, lane: Lane) -> None:
        """It is ready from now on."""
        lane.queued = True
        lane.since = self._clock()
        if not self._lanes:
            self._until = lane.since + self._gather
        self._lanes.append(lane)

    def put_behind(self, lanes: list[Lane]) -> None:
        """Those of a batch that is done which have more: behind their time, they gather nobody."""
        now = self._clock()
        for lane in lanes:
            lane.queued = bool(lane.pending) and not (lane.closed or lane.failed)
            if lane.queued:
                lane.since = now
                self._until = 0.0
                self._lanes.append(lane)

    def drop_first(self) -> None:
        """It is in a batch, or needs none."""
        self._lanes.popleft()

    def hurry(self) -> None:
        """The next batch waits for nobody else."""
        self._until = 0.0

    def rest(self, most: int) -> float:
        """Seconds that a batch of at most so many lanes still waits for others."""
        if 0 < len(self._lanes) < most:
            return self._until - self._clock()
        return 0.0

    def clear(self) -> list[Lane]:
        """All that were ready."""
        lanes, self._lanes = list(self._lanes), deque()
        return lanes


log = structlog.get_logger()


class Hearer(Protocol):
    """Who is told: a lane."""

    closed: bool
    on_step: Callable[[Posteriors | CallError], None]


@dataclass
class Mark:
    """Stands among a lane's blocks: what is its memory once those before are done?

    Attributes:
        tell: called with it; never if the lane is closed or fails before.
        memory: a copy, when the engine has come to the mark.
    """

    tell: Callable[[Memory], None]
    memory: Memory | None = None


Result = Posteriors | CallError | Mark


class Outbox:
    """Results in the order they came; what cannot be delivered now goes with the next.

    Args:
        deliver: see :class:`streamer.inference.engine.Engine`.
    """

    def __init__(self, deliver: Callable[[Callable[[], None]], object]) -> None:
        self._deliver = deliver
        self._waiting: deque[tuple[Hearer, Result]] = deque()

    def put(self, lane: Hearer, result: Result) -> None:
        """Safe from any thread."""
        self._waiting.append((lane, result))

    def send(self) -> None:
        """Have :meth:`hand_out` run where results are wanted; raises what ``deliver`` raises."""
        self._deliver(self.hand_out)

    def hand_out(self) -> None:
        """Tell each lane; an error is its last, and a callback that raises costs its lane alone."""
        while self._waiting:
            lane, result = self._waiting.popleft()
            if not lane.closed:
                lane.closed = isinstance(result, CallError)
                try:
                    _tell(lane, result)
                except Exception as error:
                    log.exception("callback_failed")
                    _end(lane, ServerFault(error))


def _tell(lane: Hearer, result: Result) -> None:
    if not isinstance(result, Mark):
        lane.on_step(result)
    elif result.memory is not None:
        result.tell(result.memory)


def _end(lane: Hearer, error: CallError) -> None:
    lane.closed = True
    try:
        lane.on_step(error)
    except Exception:
        log.exception("callback_failed", reason="nor can its call be told")
