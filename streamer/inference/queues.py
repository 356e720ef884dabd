"""Queues between the calls and the inference thread: blocks in, results out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from streamer.audio.codec import Samples
from streamer.errors import CallError, ServerFault
from streamer.inference.batch import Posteriors
from streamer.inference.metadata import Memory

log = structlog.get_logger()


@dataclass
class StateRequest:
    """A request, queued among a stream's blocks, for the memory after the blocks before it.

    Attributes:
        callback: called with the memory; never if the stream is closed or fails before.
        memory: a copy, once the engine has reached the request.
    """

    callback: Callable[[Memory], None]
    memory: Memory | None = None


Result = Posteriors | CallError | StateRequest


class InferenceStream:
    """One channel of one call, as the engine processes it.

    Args:
        memory: the model's memory of a new call.
        on_step: called with the posteriors of each block, or once with an error, which is the last
            result. Runs where the engine's ``deliver`` runs it.
    """

    __slots__ = ("closed", "failed", "memory", "on_step", "pending", "queued", "ready_since")

    def __init__(self, memory: Memory, on_step: Callable[[Posteriors | CallError], None]) -> None:
        self.memory = memory
        self.on_step = on_step
        self.pending: deque[Samples | StateRequest] = deque()
        self.queued = False  # in the ready queue or in the running batch
        self.ready_since = 0.0  # on the engine's clock
        self.failed = False  # an error is queued for it
        self.closed = False

    def next_block(self, results: ResultQueue) -> Samples | None:
        """Return the next block without removing it; answer the state requests before it."""
        while self.pending:
            item = self.pending[0]
            if not isinstance(item, StateRequest):
                return item
            item.memory = self.memory.copy()
            results.append(self, item)
            self.pending.popleft()
        return None

    def set_memory(self, memory: Memory) -> None:
        """Copy ``memory`` into the stream's own arrays."""
        self.memory.state[:], self.memory.cache[:] = memory


class ReadyQueue:
    """Streams with pending blocks, the longest waiting first. Not thread-safe.

    Args:
        max_delay_seconds: how long the first stream of a batch waits for others.
        clock: seconds, monotonic.
    """

    def __init__(self, max_delay_seconds: float, clock: Callable[[], float]) -> None:
        self._max_delay_seconds = max_delay_seconds
        self._clock = clock
        self._streams: deque[InferenceStream] = deque()
        self._deadline = 0.0  # of the next batch

    def __len__(self) -> int:
        return len(self._streams)

    @property
    def first(self) -> InferenceStream:
        """The stream that has waited longest."""
        return self._streams[0]

    @property
    def queue_seconds(self) -> float:
        """Seconds that the first stream has waited; 0 if the queue is empty."""
        return self._clock() - self._streams[0].ready_since if self._streams else 0.0

    def push(self, stream: InferenceStream) -> None:
        """Append a stream that has become ready; the first one starts the delay of a batch."""
        stream.queued = True
        stream.ready_since = self._clock()
        if not self._streams:
            self._deadline = stream.ready_since + self._max_delay_seconds
        self._streams.append(stream)

    def requeue(self, streams: list[InferenceStream]) -> None:
        """Append those streams of a finished batch that have more blocks.

        They are behind already, so the next batch does not wait for others.
        """
        now = self._clock()
        for stream in streams:
            stream.queued = bool(stream.pending) and not (stream.closed or stream.failed)
            if stream.queued:
                stream.ready_since = now
                self._deadline = 0.0
                self._streams.append(stream)

    def pop(self) -> None:
        """Remove the first stream."""
        self._streams.popleft()

    def flush(self) -> None:
        """Let the next batch start at once."""
        self._deadline = 0.0

    def remaining_delay(self, max_batch: int) -> float:
        """Return the seconds that a batch still waits for more streams; 0 or less for none."""
        if 0 < len(self._streams) < max_batch:
            return self._deadline - self._clock()
        return 0.0

    def clear(self) -> list[InferenceStream]:
        """Remove and return all streams."""
        streams, self._streams = list(self._streams), deque()
        return streams


class ResultQueue:
    """Results in the order of their steps; those that cannot be delivered go with the next.

    Args:
        deliver: see :class:`streamer.inference.engine.Engine`.
    """

    def __init__(self, deliver: Callable[[Callable[[], None]], object]) -> None:
        self._deliver = deliver
        self._results: deque[tuple[InferenceStream, Result]] = deque()

    def append(self, stream: InferenceStream, result: Result) -> None:
        """Queue a result of ``stream``; thread-safe."""
        self._results.append((stream, result))

    def send(self) -> None:
        """Have ``deliver`` run :meth:`dispatch`; raises what ``deliver`` raises."""
        self._deliver(self.dispatch)

    def dispatch(self) -> None:
        """Call each stream back; an error, or a callback that raises, closes the stream."""
        while self._results:
            stream, result = self._results.popleft()
            if not stream.closed:
                stream.closed = isinstance(result, CallError)
                try:
                    _notify(stream, result)
                except Exception as error:
                    log.exception("callback_failed")
                    _close_with_fault(stream, error)


def _notify(stream: InferenceStream, result: Result) -> None:
    if not isinstance(result, StateRequest):
        stream.on_step(result)
    elif result.memory is not None:
        result.callback(result.memory)


def _close_with_fault(stream: InferenceStream, error: Exception) -> None:
    stream.closed = True
    try:
        stream.on_step(ServerFault(error))
    except Exception:
        log.exception("callback_failed", reason="the call cannot be ended either")
