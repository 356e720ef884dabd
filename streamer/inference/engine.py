"""Dynamic batching: steps the model for the blocks of all calls, on a thread of its own.

Each channel of a call is a stream with a memory of its own. A batch takes at most one block per
stream, the longest waiting stream first. A stream that was just served goes to the back, so a
caller that floods cannot delay the others. After the first block of a batch the thread waits a few
milliseconds for more: a block costs half as much CPU among eight as alone, and 8 ms are little
beside the 320 that a block takes to fill.

Only :meth:`Engine.stop` ends the engine. An error costs the streams of its batch. A thread that is
stuck in a step, or dead, is replaced by :meth:`Engine.watch`: the streams of its batch fail, and a
new thread with new buffers serves all others.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

import structlog

from streamer.audio.codec import Samples
from streamer.errors import CallError, InferenceFailed, InferenceUnavailable, ServerFault
from streamer.inference.batch import BatchRunner, BlockResult, Posteriors, log_failure
from streamer.inference.health import Health
from streamer.inference.metadata import Memory
from streamer.inference.model import OnnxModel
from streamer.inference.queues import InferenceStream, ReadyQueue, ResultQueue, StateRequest

log = structlog.get_logger()

MAX_BATCH_DELAY_SECONDS = 0.008
"""How long a batch waits for more blocks after its first."""
INFERENCE_TIMEOUT_SECONDS = 5.0
"""A step that takes longer is stuck."""
MAX_ABANDONED = 4
"""Threads stuck in a step at the same time; with so many no new one is started."""
ERROR_PAUSE_SECONDS = 0.05
"""How long a thread waits after an unexpected error."""


class _Worker:
    """One thread and its buffers; a replaced one shares nothing with its successor."""

    def __init__(self, run: Callable[[_Worker], None], runner: BatchRunner) -> None:
        self.runner = runner
        self.batch: list[tuple[InferenceStream, Samples]] = []  # taken, without results yet
        self.step_started: float | None = None  # on the engine's clock; None between steps
        self.error: BaseException | None = None  # unexpected, its batch has no results
        self.overdue = False  # at the last check
        self.thread = threading.Thread(target=run, args=(self,), name="engine", daemon=True)


class Engine:
    """The thread that steps a model, and its queues. Public methods are thread-safe.

    Args:
        model: used by this engine alone.
        deliver: runs a callback on the thread that receives results; for asyncio
            ``loop.call_soon_threadsafe``. Called once a batch, not once a call.
        max_batch: most blocks in one step.
        max_batch_delay_seconds: how long the first block of a batch waits for others.
        on_batch: called after each step, on the engine's thread, with: blocks, seconds that the
            first of them waited, seconds of the step, blocks that failed.
        timeout_seconds: :meth:`watch` replaces a thread whose step takes longer.
        clock: seconds, monotonic.

    Attributes:
        health: of the model, as the steps show it.
        prepared: done when the model is warmed up on the engine's thread; holds the error, if any,
            in spite of which the engine serves.
    """

    def __init__(
        self,
        model: OnnxModel,
        deliver: Callable[[Callable[[], None]], object],
        *,
        max_batch: int = 32,
        max_batch_delay_seconds: float = MAX_BATCH_DELAY_SECONDS,
        on_batch: Callable[[int, float, float, int], object] = lambda *_: None,
        timeout_seconds: float = INFERENCE_TIMEOUT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.model = model
        self.health = Health(clock)
        self.prepared: Future[None] = Future()
        self._on_batch = on_batch
        self._max_batch = max_batch
        self._timeout_seconds = timeout_seconds
        self._clock = clock
        self._ready = ReadyQueue(max_batch_delay_seconds, clock)
        self._flushed = threading.Event()
        self._results = ResultQueue(deliver)
        self._wake = threading.Condition()  # also the lock of all queues and streams
        self._idle = False  # the thread waits for _wake
        self._stopping = False
        self._abandoned: list[_Worker] = []
        self._worker: _Worker | None = self._new_worker()
        self._worker.thread.start()

    def new_stream(self, on_step: Callable[[Posteriors | CallError], None]) -> InferenceStream:
        """Open a stream of a new call; for ``on_step`` see :class:`InferenceStream`."""
        return InferenceStream(self.model.metadata.fresh(), on_step)

    def submit(self, stream: InferenceStream, block: Samples | StateRequest) -> None:
        """Queue one block of int16 samples; a short one must be the stream's last."""
        with self._wake:
            stream.pending.append(block)
            if not (stream.queued or stream.failed or stream.closed):
                self._ready.push(stream)
                if self._idle:
                    self._idle = False
                    self._wake.notify()

    def snapshot(self, stream: InferenceStream, callback: Callable[[Memory], None]) -> None:
        """Request the stream's memory after the blocks submitted so far.

        Args:
            stream: of this engine.
            callback: called with a copy where ``on_step`` is called, after the results of those
                blocks and before any other; never if the stream is closed or fails before.
        """
        self.submit(stream, StateRequest(callback))

    def flush(self) -> None:
        """Step the queued blocks at once: no more are expected soon."""
        with self._wake:
            self._ready.flush()
            self._flushed.set()

    def close_stream(self, stream: InferenceStream) -> None:
        """Drop the stream's blocks and results, also those of a running step."""
        with self._wake:
            stream.closed = True
            stream.pending.clear()

    def stop(self) -> None:
        """End the thread after the running step, unless that is stuck; drop queued blocks."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
            worker = self._worker
        if worker is not None and worker.thread.is_alive():
            worker.thread.join(self._timeout_seconds)
            if worker.thread.is_alive():
                log.error("engine_stop_timeout", reason="the step is stuck")
        self._worker = None  # free its buffers, even if streams still refer to the engine

    @property
    def alive(self) -> bool:
        """Whether the engine has a running thread."""
        with self._wake:
            return self._worker is not None and self._worker.thread.is_alive()

    @property
    def queue_seconds(self) -> float:
        """Seconds that the oldest queued block has waited; 0 if none is queued."""
        with self._wake:
            return self._ready.queue_seconds

    # --- supervision, on the thread that receives results ---

    def watch(self) -> None:
        """Replace a thread that is stuck or dead; call it some ten times a second.

        A step is stuck if two checks in a row find it overdue: after one, the whole process may
        have been suspended.
        """
        with self._wake:
            if self._stopping:
                return
            worker = self._worker
            if worker is None:
                self._start_worker()
            elif not worker.thread.is_alive():
                self._replace_worker(worker, "the engine's thread is dead")
            elif worker.step_started is not None:
                overdue = self._clock() - worker.step_started > self._timeout_seconds
                if overdue and worker.overdue:
                    self._replace_worker(worker, "the step is stuck")
                worker.overdue = overdue
        self._results.dispatch()

    def _replace_worker(self, worker: _Worker, reason: str) -> None:
        log.error("engine_replaced", reason=reason, calls=len(worker.batch))
        self.health.mark_unhealthy(reason)
        self._worker = None  # so results of the old one are dropped
        self._abandoned.append(worker)
        self._fail([stream for stream, _ in worker.batch], InferenceUnavailable(reason))
        self._start_worker()

    def _start_worker(self) -> None:
        """Start a thread, there being none; if that is impossible, all ready streams fail."""
        self._abandoned = [worker for worker in self._abandoned if worker.thread.is_alive()]
        try:
            if len(self._abandoned) >= MAX_ABANDONED:
                raise RuntimeError(f"{len(self._abandoned)} threads are stuck already")  # noqa: TRY301
            worker = self._new_worker()
            self._idle = False
            self._worker = worker
            worker.thread.start()
        except (MemoryError, RuntimeError) as error:
            self._worker = None
            self.health.mark_unhealthy(f"the engine has no thread: {error}")
            self._fail(self._ready.clear(), InferenceUnavailable("the engine has no thread"))

    def _new_worker(self) -> _Worker:
        return _Worker(self._run, BatchRunner(self.model, self._max_batch))

    def _fail(self, streams: list[InferenceStream], error: CallError) -> None:
        """Queue an error for each stream; under the lock."""
        for stream in streams:
            stream.failed, stream.queued = True, False
            stream.pending.clear()
            self._results.append(stream, error)

    # --- on the engine's thread ---

    def _run(self, worker: _Worker) -> None:
        self._prepare()
        while worker is self._worker and not self._stopping:
            try:
                if worker.batch:
                    self._fail_batch(worker)
                elif self._collect_batch(worker):
                    self._run_batch(worker)
            except BaseException as error:  # noqa: BLE001 - all calls depend on this thread
                worker.error = error
                log_failure(error)
                time.sleep(ERROR_PAUSE_SECONDS)

    def _prepare(self) -> None:
        if self.prepared.done():
            return  # a successor: calls wait for it
        try:
            self.model.warm_up(self._max_batch)
        except BaseException as error:  # noqa: BLE001 - raised by prepared.result()
            self.prepared.set_exception(error)
        else:
            self.prepared.set_result(None)

    def _fail_batch(self, worker: _Worker) -> None:
        """Fail the streams of a batch that an unexpected error left without results."""
        with self._wake:
            if worker is self._worker:
                streams = [stream for stream, _ in worker.batch]
                self._fail(streams, ServerFault(worker.error or RuntimeError()))
                worker.batch, worker.error = [], None
                self.health.record_batch(len(streams), len(streams))
        self._results.send()

    def _collect_batch(self, worker: _Worker) -> bool:
        """Wait for a first block and collect a batch; False if it is empty after all."""
        max_batch = worker.runner.limit
        with self._wake:
            while not self._ready and not self._stopping:
                self._idle = True
                self._wake.wait()
            self._idle = False
            delay = self._ready.remaining_delay(max_batch)
            self._flushed.clear()
        if delay > 0.0:
            self._flushed.wait(delay)
        with self._wake:
            while self._ready and len(worker.batch) < max_batch and not self._stopping:
                stream = self._ready.first
                block = stream.next_block(self._results)
                if block is not None:
                    worker.batch.append((stream, block))
                    stream.pending.popleft()
                else:
                    stream.queued = False  # closed meanwhile, or had state requests only
                self._ready.pop()  # last: an error above must lose no stream
        if not worker.batch:
            self._results.send()  # otherwise sent after the step
        return bool(worker.batch)

    def _run_batch(self, worker: _Worker) -> None:
        batch = worker.batch
        worker.step_started = started = self._clock()
        queue_seconds = started - batch[0][0].ready_since  # the first has waited longest
        try:
            results = worker.runner.run([(block, stream.memory) for stream, block in batch])
            with self._wake:
                if worker is not self._worker:
                    return  # replaced: these streams have failed
                streams = [stream for stream, _ in batch]
                self._store_results(streams, results)
                self._ready.requeue(streams)
                worker.batch = []
            failures = sum(isinstance(result, InferenceFailed) for result in results)
            self.health.record_batch(len(batch), failures)
            try:
                self._on_batch(len(batch), queue_seconds, self._clock() - started, failures)
            finally:
                self._results.send()
        finally:
            worker.step_started, worker.overdue = None, False

    def _store_results(self, streams: list[InferenceStream], results: list[BlockResult]) -> None:
        """Store each stream's next memory and queue its result; under the lock."""
        for stream, result in zip(streams, results, strict=True):
            if isinstance(result, InferenceFailed):
                self._fail([stream], result)
            else:
                posteriors, memory = result
                stream.set_memory(memory)
                self._results.append(stream, posteriors)
