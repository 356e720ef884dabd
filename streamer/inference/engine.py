"""Batches blocks of all calls into one student, on one thread of its own.

Each channel of a call is a stream with its own memory. A batch takes at most one block per
stream, the stream that waited longest first; a stream that was just served goes to the back, so a
caller who floods cannot delay live ones. After the first block of a batch the thread gathers
others for a few milliseconds: a block costs half as much CPU among eight as alone, and nobody
notices 8 ms beside the 320 that a block took to fill.

Nothing ends the engine but :meth:`Engine.stop`. An error costs the streams of its batch. A thread
that sticks in a step, or dies, is abandoned with its buffers by :meth:`Engine.watch`, its streams
fail, and a new thread goes on with all others.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

import structlog

from streamer.audio.codec import Samples
from streamer.errors import CallError, InferenceFailed, InferenceUnavailable, ServerFault
from streamer.inference.batch import Answer, BatchRunner, Posteriors, Stepper, log_failure
from streamer.inference.health import Health
from streamer.inference.metadata import Memory
from streamer.inference.queues import InferenceStream, ReadyQueue, ResultQueue, StateRequest

log = structlog.get_logger()

MAX_BATCH_DELAY_SECONDS = 0.008
"""Seconds that a batch waits for more blocks after its first."""
INFERENCE_TIMEOUT_SECONDS = 5.0
"""A step that takes longer is given up."""
MAX_ABANDONED = 4
"""Threads stuck in a step at the same time; no new one is started beside them."""
PAUSE = 0.05
"""Seconds that a thread waits after an error it did not expect."""


class _Worker:
    """One thread and what it works in; an abandoned one shares nothing with its successor."""

    def __init__(self, run: Callable[[_Worker], None], step: BatchRunner) -> None:
        self.step = step
        self.batch: list[tuple[InferenceStream, Samples]] = []  # taken, and not yet answered
        self.began: float | None = None  # when its step did
        self.fault: BaseException | None = None  # that left the batch behind
        self.overdue = False  # the last look found it stuck
        self.thread = threading.Thread(target=run, args=(self,), name="engine", daemon=True)


class Engine:
    """The thread that owns the student.

    Args:
        student: advanced by this engine alone.
        deliver: runs a callback where results are wanted; for asyncio
            ``loop.call_soon_threadsafe``. Once a batch, not once a call.
        max_batch: most blocks in one step.
        max_batch_delay_seconds: seconds that the first block of a batch waits for others.
        on_batch: called after each step, on the engine's thread: blocks, seconds that the first of
            them waited, seconds of the step, blocks that failed.
        timeout_seconds: a step that takes longer is given up by :meth:`watch`.
        clock: seconds, monotonic.

    Attributes:
        health: what the steps say of the student.
        prepared: done when the student is warmed up for this thread; with its error, if any,
            with which the engine serves all the same.
    """

    def __init__(
        self,
        model: Stepper,
        deliver: Callable[[Callable[[], None]], object],
        *,
        max_batch: int = 32,
        max_batch_delay_seconds: float = MAX_BATCH_DELAY_SECONDS,
        on_batch: Callable[[int, float, float, int], None] | None = None,
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
        self._idle = False
        self._ready = ReadyQueue(max_batch_delay_seconds, clock)
        self._flushed = threading.Event()
        self._results = ResultQueue(deliver)
        self._wake = threading.Condition()
        self._stopping = False
        self._abandoned: list[_Worker] = []
        self._worker: _Worker | None = self._new_worker()
        self._worker.thread.start()

    def new_stream(self, on_step: Callable[[Posteriors | CallError], None]) -> InferenceStream:
        """A stream whose call has not begun."""
        return InferenceStream(self.model.metadata.fresh(), on_step)

    def submit(self, stream: InferenceStream, block: Samples) -> None:
        """Queue one block of int16 samples; a short one must be the stream's last."""
        self._queue(stream, block)

    def snapshot(self, stream: InferenceStream, callback: Callable[[Memory], None]) -> None:
        """Ask for the memory after the blocks submitted so far.

        Args:
            stream: whose.
            callback: called with a copy where ``on_step`` is called, after the results of those blocks
                and before any other; never if the stream is closed or fails before.
        """
        self._queue(stream, StateRequest(callback))

    def _queue(self, stream: InferenceStream, block: Samples | StateRequest) -> None:
        with self._wake:
            stream.pending.append(block)
            if not (stream.queued or stream.failed or stream.closed):
                self._ready.push(stream)
                if self._idle:
                    self._idle = False
                    self._wake.notify()

    def flush(self) -> None:
        """Step what is queued at once: nothing that would be worth waiting for is to come."""
        with self._wake:
            self._ready.flush()
            self._flushed.set()

    def close_stream(self, stream: InferenceStream) -> None:
        """Forget the stream; a step in flight ends unheard."""
        with self._wake:
            stream.closed = True
            stream.pending.clear()

    def stop(self) -> None:
        """End the thread after the running step, if that ends; queued blocks are dropped."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
            worker = self._worker
        if worker is not None and worker.thread.is_alive():
            worker.thread.join(self._timeout_seconds)
            if worker.thread.is_alive():
                log.error("engine_stop_timeout", reason="the step is stuck")
        self._worker = None  # its buffers go at once, whoever still holds a stream of ours

    @property
    def alive(self) -> bool:
        """Whether there is a thread to answer."""
        with self._wake:
            return self._worker is not None and self._worker.thread.is_alive()

    @property
    def queue_seconds(self) -> float:
        """Seconds that the oldest block has waited; 0 if none does."""
        with self._wake:
            return self._ready.queue_seconds

    # --- looked after, where callbacks run ---

    def watch(self) -> None:
        """Replace a thread that is stuck or dead; to be called some ten times a second.

        A step is stuck if two looks in a row find it too long: a process that was itself stopped
        for a while must not take that for a stuck step.
        """
        with self._wake:
            if self._stopping:
                return
            worker = self._worker
            if worker is None:
                self._start_worker()
            elif not worker.thread.is_alive():
                self._replace_worker(worker, "the engine's thread is dead")
            elif worker.began is not None:
                overdue = self._clock() - worker.began > self._timeout_seconds
                if overdue and worker.overdue:
                    self._replace_worker(worker, "the step is stuck")
                worker.overdue = overdue
        self._results.dispatch()

    def _replace_worker(self, worker: _Worker, reason: str) -> None:
        log.error("engine_replaced", reason=reason, calls=len(worker.batch))
        self.health.mark_unhealthy(reason)
        self._worker = None  # whatever the old one still brings is dropped
        self._abandoned.append(worker)
        self._fail([stream for stream, _ in worker.batch], InferenceUnavailable(reason))
        self._start_worker()

    def _start_worker(self) -> None:
        """Start a thread in place of none; while that cannot be, all streams that wait fail."""
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
        """Queue an error for each; under the lock."""
        for stream in streams:
            stream.failed, stream.queued = True, False
            stream.pending.clear()
            self._results.append(stream, error)

    # --- on the thread ---

    def _run(self, worker: _Worker) -> None:
        if not self.prepared.done():
            self._prepare()
        while worker is self._worker and not self._stopping:
            try:
                if worker.batch:
                    self._fail_batch(worker)
                elif self._collect_batch(worker):
                    self._run_batch(worker)
            except BaseException as error:  # noqa: BLE001 - without this thread no call is answered
                worker.fault = error
                log_failure(error)
                time.sleep(PAUSE)

    def _prepare(self) -> None:
        try:
            self.model.warm_up(self._max_batch)
        except BaseException as error:  # noqa: BLE001 - whoever waits for it hears of it
            self.prepared.set_exception(error)
        else:
            self.prepared.set_result(None)

    def _fail_batch(self, worker: _Worker) -> None:
        """Fail the streams that an unexpected error left behind."""
        with self._wake:
            if worker is self._worker:
                streams = [stream for stream, _ in worker.batch]
                self._fail(streams, ServerFault(worker.fault or RuntimeError()))
                worker.batch, worker.fault = [], None
                self.health.record_batch(len(streams), len(streams))
        self._results.send()

    def _collect_batch(self, worker: _Worker) -> bool:
        """Make up the next batch; waits for the first block; False if there is none after all."""
        most = worker.step.limit
        with self._wake:
            while not self._ready and not self._stopping:
                self._idle = True
                self._wake.wait()
            self._idle = False
            rest = self._ready.remaining_delay(most)
            self._flushed.clear()
        if rest > 0.0:
            self._flushed.wait(rest)
        with self._wake:
            while self._ready and len(worker.batch) < most and not self._stopping:
                stream = self._ready.first
                block = stream.next_block(self._results)
                if block is not None:
                    worker.batch.append((stream, block))
                    stream.pending.popleft()
                else:
                    stream.queued = False  # closed meanwhile, or only asked for its memory
                self._ready.pop()  # not before: an error above must lose no stream
        if not worker.batch:
            self._results.send()  # else that is done after the step
        return bool(worker.batch)

    def _run_batch(self, worker: _Worker) -> None:
        batch = worker.batch
        worker.began = began = self._clock()
        waited = began - batch[0][0].ready_since  # streams are served in the order they came
        try:
            answers = worker.step.run([(block, stream.memory) for stream, block in batch])
            with self._wake:
                if worker is not self._worker:
                    return  # given up: these streams have failed
                streams = [stream for stream, _ in batch]
                self._store_results(streams, answers)
                self._ready.requeue(streams)
                worker.batch = []
            failures = sum(isinstance(answer, InferenceFailed) for answer in answers)
            self.health.record_batch(len(batch), failures)
            try:
                if self._on_batch is not None:
                    self._on_batch(len(batch), waited, self._clock() - began, failures)
            finally:
                self._results.send()
        finally:
            worker.began, worker.overdue = None, False

    def _store_results(self, streams: list[InferenceStream], answers: list[Answer]) -> None:
        """Each stream its next memory or its failure; under the lock."""
        for stream, answer in zip(streams, answers, strict=True):
            if isinstance(answer, InferenceFailed):
                self._fail([stream], answer)
            else:
                posteriors, memory = answer
                stream.set_memory(memory)
                self._results.append(stream, posteriors)
