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


class InferenceStream:
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
        self.pending: deque[Samples | StateRequest] = deque()
        self.queued = False  # among the ready ones or in the running batch
        self.since = 0.0  # when it became ready
        self.failed = False  # an error is under way to it
        self.closed = False

    def next_block(self, outbox: ResultQueue) -> Samples | None:
        """The block that is next, left where it is; marks before it are answered."""
        while self.pending:
            item = self.pending[0]
            if not isinstance(item, StateRequest):
                return item
            item.memory = self.memory.copy()
            outbox.put(self, item)
            self.pending.popleft()
        return None

    def remember(self, memory: Memory) -> None:
        """Take over a copy of it."""
        self.memory.state[:], self.memory.cache[:] = memory


class ReadyQueue:
    """Lanes with something pending, the one that waited longest first. Not safe by itself.

    Args:
        gather: seconds that the first of a batch waits for others.
        clock: seconds, monotonic.
    """

    def __init__(self, gather: float, clock: Callable[[], float]) -> None:
        self._gather = gather
        self._clock = clock
        self._lanes: deque[InferenceStream] = deque()
        self._until = 0.0

    def __len__(self) -> int:
        return len(self._lanes)

    @property
    def first(self) -> InferenceStream:
        """The one that waited longest."""
        return self._lanes[0]

    @property
    def queue_seconds(self) -> float:
        """Seconds that the first has waited; 0 if none does."""
        return self._clock() - self._lanes[0].since if self._lanes else 0.0

    def put(self, stream: InferenceStream) -> None:
        """It is ready from now on."""
        stream.queued = True
        stream.since = self._clock()
        if not self._lanes:
            self._until = stream.since + self._gather
        self._lanes.append(stream)

    def requeue(self, streams: list[InferenceStream]) -> None:
        """Those of a batch that is done which have more: behind their time, they gather nobody."""
        now = self._clock()
        for stream in streams:
            stream.queued = bool(stream.pending) and not (stream.closed or stream.failed)
            if stream.queued:
                stream.since = now
                self._until = 0.0
                self._lanes.append(stream)

    def pop(self) -> None:
        """It is in a batch, or needs none."""
        self._lanes.popleft()

    def flush(self) -> None:
        """The next batch waits for nobody else."""
        self._until = 0.0

    def rest(self, most: int) -> float:
        """Seconds that a batch of at most so many streams still waits for others."""
        if 0 < len(self._lanes) < most:
            return self._until - self._clock()
        return 0.0

    def clear(self) -> list[InferenceStream]:
        """All that were ready."""
        streams, self._lanes = list(self._lanes), deque()
        return streams


log = structlog.get_logger()


class ResultSink(Protocol):
    """Who is told: a stream."""

    closed: bool
    on_step: Callable[[Posteriors | CallError], None]


@dataclass
class StateRequest:
    """Stands among a stream's blocks: what is its memory once those before are done?

    Attributes:
        tell: called with it; never if the stream is closed or fails before.
        memory: a copy, when the engine has come to the mark.
    """

    tell: Callable[[Memory], None]
    memory: Memory | None = None


Result = Posteriors | CallError | StateRequest


class ResultQueue:
    """Results in the order they came; what cannot be delivered now goes with the next.

    Args:
        deliver: see :class:`streamer.inference.engine.Engine`.
    """

    def __init__(self, deliver: Callable[[Callable[[], None]], object]) -> None:
        self._deliver = deliver
        self._waiting: deque[tuple[ResultSink, Result]] = deque()

    def put(self, stream: ResultSink, result: Result) -> None:
        """Safe from any thread."""
        self._waiting.append((stream, result))

    def send(self) -> None:
        """Have :meth:`dispatch` run where results are wanted; raises what ``deliver`` raises."""
        self._deliver(self.dispatch)

    def dispatch(self) -> None:
        """Call back each stream; an error, or a callback that raises, is its last result."""
        while self._waiting:
            stream, result = self._waiting.popleft()
            if not stream.closed:
                stream.closed = isinstance(result, CallError)
                try:
                    _tell(stream, result)
                except Exception as error:
                    log.exception("callback_failed")
                    _end(stream, ServerFault(error))


def _tell(stream: ResultSink, result: Result) -> None:
    if not isinstance(result, StateRequest):
        stream.on_step(result)
    elif result.memory is not None:
        result.tell(result.memory)


def _end(stream: ResultSink, error: CallError) -> None:
    stream.closed = True
    try:
        stream.on_step(error)
    except Exception:
        log.exception("callback_failed", reason="nor can its call be told")
