"""Streams that are open and have not said yet what they want."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from streamer.errors import CallError, ConfigTimeout, FailedPrecondition
from streamer.rpc import voicecohort_pb2 as pb


class Openings:
    """Waits for the config of every stream, for so long.

    Args:
        timeout: seconds.
        clock: seconds, monotonic.
    """

    def __init__(self, timeout: float, clock: Callable[[], float]) -> None:
        self._timeout = timeout
        self._clock = clock
        self._since: dict[asyncio.Future[CallError], float] = {}

    def __len__(self) -> int:
        """Streams that wait."""
        return len(self._since)

    async def config(
        self, read: Callable[[], Awaitable[pb.StreamClassifyRequest | None]]
    ) -> pb.StreamConfig:
        """The first message of a stream that was opened just now.

        Raises:
            FailedPrecondition: it is no config, or the stream ended.
            CallError: what :meth:`sweep` or :meth:`stop` has to say.
        """
        stopped: asyncio.Future[CallError] = asyncio.get_running_loop().create_future()
        self._since[stopped] = self._clock()
        reading = asyncio.ensure_future(read())
        try:
            await asyncio.wait((reading, stopped), return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                raise stopped.result()
            first = reading.result()
        finally:
            del self._since[stopped]
            reading.cancel()
        if first is None:
            raise FailedPrecondition("config", "the stream ended before its first message")
        if first.WhichOneof("message") != "config":
            raise FailedPrecondition("config", "the first message of a stream must be the config")
        return first.config

    def sweep(self) -> None:
        """Turn away who has waited for too long; to be called once a second."""
        oldest = self._clock() - self._timeout
        for stopped, since in self._since.items():
            if since < oldest and not stopped.done():
                stopped.set_result(ConfigTimeout(self._timeout))

    def stop(self, reason: CallError) -> None:
        """Turn away all."""
        for stopped in self._since:
            if not stopped.done():
                stopped.set_result(reason)
