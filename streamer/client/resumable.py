"""A call that outlives its stream: it resumes from its last checkpoint on any replica."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable

import grpc

from streamer.client.deduplication import ResponseDeduplicator
from streamer.client.replay_buffer import ReplayBuffer
from streamer.client.retry import RetryPolicy
from streamer.client.stream import CallStream
from streamer.rpc import voicecohort_pb2 as pb

Request = pb.StreamClassifyRequest
Response = pb.StreamClassifyResponse

ANSWER_SECONDS = 10.0
"""How long a server may take to accept a call; one that hangs is left for another."""
MAX_UNREAD = 1000
"""Responses that wait for a gateway that does not read; beyond, running predictions go."""


class ResumableStream:
    """Behaves as one :class:`~streamer.client.stream.Stream` would whose server never dies.

    One task owns the present stream: it reads all the time, so that checkpoints count also while
    the gateway does not read, and gives the stream what is kept, old and new.

    Args:
        open_stream: opens a new stream.
        kept: empty; its bound is the bound of this stream's memory.
        attempts: when to try again.
        sleep: seconds.
        answer_seconds: see :data:`ANSWER_SECONDS`.
    """

    def __init__(
        self,
        open_stream: Callable[[], CallStream],
        kept: ReplayBuffer,
        attempts: RetryPolicy,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        self._open = open_stream
        self._kept = kept
        self._attempts = attempts
        self._sleep = sleep
        self._answer_seconds = answer_seconds
        self._config = pb.StreamConfig()
        self._acknowledged = -1  # sequence of the last checkpoint
        self._delivered = ResponseDeduplicator()
        self._unread: deque[Response] = deque()
        self._streams = 0  # that began
        self._writing = asyncio.Lock()
        self._last_audio = 0  # sequence
        self._half_closed = False
        self._all_given = False  # to the present stream, the half-close too
        self._room, self._more, self._news = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def resumptions(self) -> int:
        """How often the call went on with another stream."""
        return max(0, self._streams - 1)

    # --- for the call ---

    async def begin(self, config: pb.StreamConfig) -> pb.Started:
        """Send the config, again if need be; the server's answer to it."""
        self._config.CopyFrom(config)
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(self._wake_all)
        first = await self.read()
        if first is None:
            raise ConnectionError("the server ended the call before it began")
        return first.started

    async def write(self, request: Request) -> None:
        """Take one message; waits while as much as may be kept is kept."""
        async with self._writing:  # which is fair, so that the order is that of the calls
            if self._half_closed:
                raise asyncio.InvalidStateError("the call is half-closed")
            while self._kept.full and self._running:
                self._room.clear()
                await self._room.wait()
            if not self._running:
                self._raise_error()
                raise asyncio.InvalidStateError("the call is over")
            self._kept.add(request)
            if request.HasField("audio"):
                self._last_audio = request.audio.sequence
            self._more.set()

    async def half_close(self) -> None:
        """Nothing more will be written."""
        async with self._writing:
            self._half_closed = True
            self._more.set()

    async def read(self) -> Response | None:
        """Next new response, or the ``started`` of a new stream; None after the last."""
        while not self._unread:
            if not self._running:
                self._raise_error()
                return None
            self._news.clear()
            await self._news.wait()
        return self._unread.popleft()

    async def close(self) -> None:
        """Leave the call; no effect on one that has ended."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @property
    def _running(self) -> bool:
        return self._task is not None and not self._task.done()

    def _raise_error(self) -> None:
        if self._task is not None:
            self._task.result()

    def _wake_all(self, _: object) -> None:
        for event in (self._room, self._more, self._news):
            event.set()

    # --- the task ---

    async def _run(self) -> None:
        """From stream to stream, until one ends well or none can be had."""
        try:
            while True:
                stream = self._open()
                try:
                    await self._converse(stream)
                except grpc.aio.AioRpcError as error:
                    if self._complete:
                        return  # only the status is missing
                    delay = self._attempts.delay(error)
                else:
                    return
                finally:
                    await stream.close()
                await self._sleep(delay)
        finally:
            self._unread.extend(self._delivered.rest())

    @property
    def _complete(self) -> bool:
        """Whether the present stream has brought the final prediction of every channel."""
        channels = sum(not channel.ignored for channel in self._config.channels) or 1
        finals = self._delivered.finals_up_to(self._last_audio)
        return self._all_given and finals == channels

    async def _converse(self, stream: CallStream) -> None:
        """One stream from its config to its end."""
        started = await self._begun(stream)
        self._streams += 1
        self._attempts.began()
        self._delivered.begin_stream()
        self._kept.rewind()
        self._all_given = False
        self._deliver(Response(started=started))
        reader = asyncio.create_task(self._take_all(stream))
        writer = asyncio.create_task(self._give_all(stream))
        try:
            await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
            if not reader.done():
                writer.result()
            await reader
        finally:
            reader.cancel()
            writer.cancel()
            await asyncio.gather(reader, writer, return_exceptions=True)

    async def _begun(self, stream: CallStream) -> pb.Started:
        try:
            async with asyncio.timeout(self._answer_seconds):
                return await stream.begin(self._config)
        except TimeoutError:
            raise grpc.aio.AioRpcError(
                grpc.StatusCode.UNAVAILABLE,
                grpc.aio.Metadata(),
                grpc.aio.Metadata(),
                f"no answer to the config within {self._answer_seconds:g} s",
            ) from None

    async def _give_all(self, stream: CallStream) -> None:
        """Write what the stream has not been given, as it comes, and the half-close."""
        # An error of the stream is its status, which the reader meets, too.
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            while True:
                while (request := self._kept.next()) is not None:
                    await stream.write(request)
                if self._half_closed:
                    await stream.half_close()
                    self._all_given = True
                    return
                self._more.clear()
                await self._more.wait()

    async def _take_all(self, stream: CallStream) -> None:
        """Read until the stream ends well."""
        while (response := await stream.read()) is not None:
            self._take(response)

    def _take(self, response: Response) -> None:
        kind = response.WhichOneof("message")
        new: list[Response] = []
        if kind == "checkpoint":
            new = self._delivered.rest()  # the checkpoint rests on it
            self._config.resume_from = response.checkpoint.data
            self._kept.forget(response.checkpoint.sequence)
            self._room.set()
            if response.checkpoint.sequence > self._acknowledged:
                self._acknowledged = response.checkpoint.sequence
                self._attempts.progressed()
        elif kind in {"prediction", "speech"}:
            new = self._delivered.take(response)
        if new:
            self._attempts.progressed()
        for item in new:
            self._deliver(item)

    def _deliver(self, response: Response) -> None:
        """Queue a response; of too many the oldest running prediction is dropped."""
        if len(self._unread) >= MAX_UNREAD:
            stale = next((r for r in self._unread if r.HasField("prediction")), None)
            if stale is None:
                raise grpc.aio.AioRpcError(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    grpc.aio.Metadata(),
                    grpc.aio.Metadata(),
                    f"unread responses: {MAX_UNREAD + 1} exceeds the limit of {MAX_UNREAD}",
                )
            self._unread.remove(stale)
        self._unread.append(response)
        self._news.set()
