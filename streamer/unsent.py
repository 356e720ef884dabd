"""What a call has to say and its gateway has not read yet."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator

from streamer.channel import Update
from streamer.rpc import voicecohort_pb2 as pb
from streamer.snapshot import CallState

Item = pb.StreamClassifyResponse | Update | CallState
"""A prediction and a checkpoint become a message only when it is their turn."""


class Unsent:
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
