"""Queue and write the responses of one call; a newer prediction replaces an unsent older one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from streamer.checkpoint.resumption import CheckpointSchedule
from streamer.inference.decision import Decider
from streamer.observability.metrics import Metrics
from streamer.observability.tracing import CallTrace
from streamer.rpc import voicecohort_pb2 as pb
from streamer.session.events import Update
from streamer.session.state import CallState
from streamer.transport import converters
from streamer.transport.stream import Writer

Item = pb.StreamClassifyResponse | Update | CallState
"""A prediction and a checkpoint become a message only when they are written."""


class ResponseQueue:
    """Responses between a call and its stream; both are on one thread."""

    def __init__(self) -> None:
        self._items: deque[Item] = deque()
        self._changed = asyncio.Event()
        self._closed = False

    def __len__(self) -> int:
        return len(self._items)

    def append(self, item: Item) -> None:
        """Queue a response."""
        self._items.append(item)
        self._changed.set()

    def remove_first(self, matches: Callable[[Item], bool]) -> None:
        """Remove the oldest response that matches, if there is one."""
        for index, item in enumerate(self._items):
            if matches(item):
                del self._items[index]
                break

    def close(self) -> None:
        """Accept no more responses."""
        self._closed = True
        self._changed.set()

    async def next(self) -> Item | None:
        """Wait for the oldest response; None when the queue is closed and empty."""
        while not self._items:
            if self._closed:
                return None
            self._changed.clear()
            await self._changed.wait()
        return self._items.popleft()


class ResponseWriter:
    """Makes responses when the gateway can receive them, and writes them.

    Args:
        decider: of the call's model.
        min_speech_seconds: that the call requested.
        checkpoint_schedule: if the call requested checkpoints.
        metrics: counts predictions.
        trace: records responses.
        clock: seconds, monotonic.

    Attributes:
        queue: responses that wait.
    """

    def __init__(
        self,
        decider: Decider,
        min_speech_seconds: float,
        checkpoint_schedule: CheckpointSchedule | None,
        metrics: Metrics,
        trace: CallTrace,
        clock: Callable[[], float],
    ) -> None:
        self._decider = decider
        self._min_speech_seconds = min_speech_seconds
        self._checkpoint_schedule = checkpoint_schedule
        self._metrics = metrics
        self._trace = trace
        self._clock = clock
        self._previous: dict[int, converters.SentPrediction] = {}
        self.queue = ResponseQueue()
        self._idle: Writer | None = None  # the stream, while the writer's task waits for responses

    def send(self, item: Item) -> None:
        """Send a response if the writer is idle: to wake a task costs as much as to make it.

        Otherwise queue it, in place of an older prediction of its channel or an older checkpoint.
        """
        writer = self._idle
        if writer is not None and writer.writable and not len(self.queue):
            response = self._response(item)
            writer.try_write(response)
            self._record(item, response)
            return
        if isinstance(item, Update):
            self.queue.remove_first(
                lambda old: isinstance(old, Update) and old.channel == item.channel
            )
        elif isinstance(item, CallState):
            self.queue.remove_first(lambda old: isinstance(old, CallState))
        self.queue.append(item)

    async def write_all(self, writer: Writer) -> None:
        """Write responses until the queue is closed and empty."""
        self._idle = writer
        try:
            while (item := await self.queue.next()) is not None:
                self._idle = None
                response = self._response(item)
                await writer.write(response)
                self._record(item, response)
                self._idle = writer
        finally:
            self._idle = None

    def _response(self, item: Item) -> pb.StreamClassifyResponse:
        if isinstance(item, Update):
            # Made into a message only now: for a replaced update it would be wasted work.
            previous = self._previous.get(item.channel)
            response = converters.prediction(
                item, self._decider, self._min_speech_seconds, previous
            )
            self._previous[item.channel] = (item, response)
            if item.final:
                self._metrics.record_final_prediction(response.prediction)
            return response
        if isinstance(item, CallState):
            assert self._checkpoint_schedule is not None  # noqa: S101 - it requested the state
            sealed = self._checkpoint_schedule.seal(item)
            return converters.checkpoint(sealed, item.sequence or 0)
        return item

    def _record(self, item: Item, response: pb.StreamClassifyResponse) -> None:
        self._trace.sent(response)
        if isinstance(item, Update) and not item.final:
            self._metrics.record_prediction_latency(self._clock() - item.received)
