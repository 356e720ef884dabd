"""Stream of a resumable call: it resumes from its last checkpoint on any replica."""

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

RESPONSE_SECONDS = 10.0
"""Limit for a server to accept a call; then another server is tried."""
MAX_UNREAD = 1000
"""Unread responses; beyond this number the oldest prediction is dropped."""


class ResumableStream:
    """Behaves like a :class:`~streamer.client.stream.Stream` whose server never fails.

    One task owns the current stream. It always reads, so that checkpoints take effect while the
    gateway does not read, and it writes the buffered requests, replayed and new ones.

    Args:
        open_stream: opens a new stream.
        buffer: empty; its bound is the bound of this stream's memory.
        retry: decides on retries and their delay.
        sleep: waits for a number of seconds.
        response_seconds: see :data:`RESPONSE_SECONDS`.
    """

    def __init__(
        self,
        open_stream: Callable[[], CallStream],
        buffer: ReplayBuffer,
        retry: RetryPolicy,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        response_seconds: float = RESPONSE_SECONDS,
    ) -> None:
        self._open = open_stream
        self._buffer = buffer
        self._retry = retry
        self._sleep = sleep
        self._response_seconds = response_seconds
        self._config = pb.StreamConfig()
        self._acknowledged = -1  # sequence of the last checkpoint
        self._responses = ResponseDeduplicator()
        self._unread: deque[Response] = deque()
        self._streams = 0  # started
        self._writing = asyncio.Lock()
        self._last_audio = 0  # sequence
        self._half_closed = False
        self._all_sent = False  # on the current stream, including the half-close
        self._space_freed = asyncio.Event()
        self._request_added = asyncio.Event()
        self._response_added = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def resumptions(self) -> int:
        """Number of streams after the first."""
        return max(0, self._streams - 1)

    # --- for the call ---

    async def start(self, config: pb.StreamConfig) -> pb.Started:
        """Send the config, with retries, and return the server's ``started``."""
        self._config.CopyFrom(config)
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(self._wake_all)
        first = await self.read()
        if first is None:
            raise ConnectionError("the server ended the call before it started")
        return first.started

    async def write(self, request: Request) -> None:
        """Buffer one request; waits while the buffer is full."""
        async with self._writing:  # a fair lock keeps the order of writes
            if self._half_closed:
                raise asyncio.InvalidStateError("the call is half-closed")
            while self._buffer.full and self._running:
                self._space_freed.clear()
                await self._space_freed.wait()
            if not self._running:
                self._raise_error()
                raise asyncio.InvalidStateError("the call has ended")
            self._buffer.append(request)
            if request.HasField("audio"):
                self._last_audio = request.audio.sequence
            self._request_added.set()

    async def half_close(self) -> None:
        """Half-close: no more requests follow."""
        async with self._writing:
            self._half_closed = True
            self._request_added.set()

    async def read(self) -> Response | None:
        """Return the next response or the ``started`` of a new stream; None after the last."""
        while not self._unread:
            if not self._running:
                self._raise_error()
                return None
            self._response_added.clear()
            await self._response_added.wait()
        return self._unread.popleft()

    async def close(self) -> None:
        """Cancel the call; no effect after its end."""
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
        for event in (self._space_freed, self._request_added, self._response_added):
            event.set()

    # --- the task ---

    async def _run(self) -> None:
        """Run stream after stream until one ends with OK or the retry policy raises."""
        try:
            while True:
                stream = self._open()
                try:
                    await self._run_stream(stream)
                except grpc.aio.AioRpcError as error:
                    if self._complete:
                        return  # only the status is missing
                    delay = self._retry.next_delay(error)
                else:
                    return
                finally:
                    await stream.close()
                await self._sleep(delay)
        finally:
            self._unread.extend(self._responses.flush())

    @property
    def _complete(self) -> bool:
        """Whether the current stream has delivered the final prediction of every channel."""
        channels = sum(not channel.ignored for channel in self._config.channels) or 1
        finals = self._responses.count_finals(self._last_audio)
        return self._all_sent and finals == channels

    async def _run_stream(self, stream: CallStream) -> None:
        """Run one stream from its config to its end."""
        started = await self._start_stream(stream)
        self._streams += 1
        self._retry.record_start()
        self._responses.begin_stream()
        self._buffer.rewind()
        self._all_sent = False
        self._deliver(Response(started=started))
        reader = asyncio.create_task(self._read_all(stream))
        writer = asyncio.create_task(self._write_all(stream))
        try:
            await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
            if not reader.done():
                writer.result()
            await reader
        finally:
            reader.cancel()
            writer.cancel()
            await asyncio.gather(reader, writer, return_exceptions=True)

    async def _start_stream(self, stream: CallStream) -> pb.Started:
        try:
            async with asyncio.timeout(self._response_seconds):
                return await stream.start(self._config)
        except TimeoutError:
            raise grpc.aio.AioRpcError(
                grpc.StatusCode.UNAVAILABLE,
                grpc.aio.Metadata(),
                grpc.aio.Metadata(),
                f"no response to the config within {self._response_seconds:g} s",
            ) from None

    async def _write_all(self, stream: CallStream) -> None:
        """Write unsent requests as they arrive, then the half-close."""
        # The reader raises the same status.
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            while True:
                while (request := self._buffer.next_unsent()) is not None:
                    await stream.write(request)
                if self._half_closed:
                    await stream.half_close()
                    self._all_sent = True
                    return
                self._request_added.clear()
                await self._request_added.wait()

    async def _read_all(self, stream: CallStream) -> None:
        """Process responses until the stream ends with OK."""
        while (response := await stream.read()) is not None:
            self._process(response)

    def _process(self, response: Response) -> None:
        kind = response.WhichOneof("message")
        new: list[Response] = []
        if kind == "checkpoint":
            new = self._responses.flush()  # the checkpoint includes them
            self._config.resume_from = response.checkpoint.data
            self._buffer.acknowledge(response.checkpoint.sequence)
            self._space_freed.set()
            if response.checkpoint.sequence > self._acknowledged:
                self._acknowledged = response.checkpoint.sequence
                self._retry.record_progress()
        elif kind in {"prediction", "speech"}:
            new = self._responses.push(response)
        if new:
            self._retry.record_progress()
        for accepted in new:
            self._deliver(accepted)

    def _deliver(self, response: Response) -> None:
        """Queue a response; at the limit drop the oldest running prediction."""
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
        self._response_added.set()
