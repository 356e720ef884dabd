"""What the engine found out, on its way to the calls: from its thread to theirs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import structlog

from streamer.batch import Posteriors
from streamer.errors import CallError, ServerFault
from streamer.metadata import Memory

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
        deliver: see :class:`streamer.engine.Engine`.
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
