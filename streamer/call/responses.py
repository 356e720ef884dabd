"""Queue and write the responses of one call; a newer prediction replaces an unsent older one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator

from streamer.checkpoint.resumption import CheckpointSchedule
from streamer.inference.decision import Decider
from streamer.observability.metrics import Metrics
from streamer.observability.tracing import CallTrace
from streamer.rpc import voicecohort_pb2 as pb
from streamer.session.events import Update
from streamer.session.state import CallState
from streamer.transport import converters as messages
from streamer.transport.stream import Writer

Response = pb.StreamClassifyResponse


class ResponseWriter:
    """Makes responses when the gateway can have them, and writes them.

    Args:
        decider: of the call's model.
        min_speech_seconds: that the call asked for.
        checkpoints: of the call's checkpoints, if it asked for them.
        metrics: told of predictions.
        trace: told of responses.
        clock: seconds, monotonic.

    Attributes:
        unsent: what waits.
    """

    def __init__(
        self,
        decider: Decider,
        min_speech_seconds: float,
        checkpoints: CheckpointSchedule | None,
        metrics: Metrics,
        trace: CallTrace,
        clock: Callable[[], float],
    ) -> None:
        self._decider = decider
        self._min_speech_seconds = min_speech_seconds
        self._checkpoints = checkpoints
        self._metrics = metrics
        self._trace = trace
        self._clock = clock
        self._said: dict[int, messages.Said] = {}
        self.queue = ResponseQueue()
        self._idle: Writer | None = None  # what the writer's task writes to, while it has nothing

    def say(self, item: Item) -> None:
        """Write it where nothing is in its way: to wake a task costs as much as to make it.

        Else it is queued, in place of an older prediction of its channel or an older checkpoint.
        """
        writer = self._idle
        if writer is not None and writer.writable and not len(self.queue):
            response = self._response(item)
            writer.try_write(response)
            self._written(item, response)
            return
        if isinstance(item, Update):
            self.queue.drop(lambda old: isinstance(old, Update) and old.channel == item.channel)
        elif isinstance(item, CallState):
            self.queue.drop(lambda old: isinstance(old, CallState))
        self.queue.put(item)

    async def write_all(self, writer: Writer) -> None:
        """Write what is queued until there will be no more."""
        self._idle = writer
        try:
            while (item := await self.queue.next()) is not None:
                self._idle = None
                response = self._response(item)
                await writer.write(response)
                self._written(item, response)
                self._idle = writer
        finally:
            self._idle = None

    def _response(self, item: Item) -> Response:
        if isinstance(item, Update):
            # Made into a message only now: an overtaken update would be wasted work.
            before = self._said.get(item.channel)
            response = messages.prediction(item, self._decider, self._min_speech_seconds, before)
            self._said[item.channel] = (item, response)
            if item.final:
                self._metrics.record_final_prediction(response.prediction)
            return response
        if isinstance(item, CallState):
            assert self._checkpoints is not None  # noqa: S101 - it asked for the state
            return messages.checkpoint(self._checkpoints.seal(item), item.sequence or 0)
        return item

    def _written(self, item: Item, response: Response) -> None:
        self._trace.sent(response)
        if isinstance(item, Update) and not item.final:
            self._metrics.record_prediction_latency(self._clock() - item.received)


Item = pb.StreamClassifyResponse | Update | CallState
"""A prediction and a checkpoint become a message only when it is their turn."""


class ResponseQueue:
    """A queue between the call and its stream; both on one thread."""

    def __init__(self) -> None:
        self._items: deque[Item] = deque()
        self._changed = asyncio.Event()
        self._complete = False

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items)

    def put(self, item: Item) -> None:
        """Queue it."""
        self._items.append(item)
        self._changed.set()

    def drop(self, overtaken: Callable[[Item], bool]) -> None:
        """Leave out the first that something newer replaces, if there is one."""
        for index, item in enumerate(self._items):
            if overtaken(item):
                del self._items[index]
                break

    def complete(self) -> None:
        """Nothing more will be said."""
        self._complete = True
        self._changed.set()

    async def next(self) -> Item | None:
        """The oldest, waited for; None once all is sent that will ever be."""
        while not self._items:
            if self._complete:
                return None
            self._changed.clear()
            await self._changed.wait()
        return self._items.popleft()
