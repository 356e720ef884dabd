"""Batches blocks of all calls into one student, on one thread of its own.

Each channel of a call is a lane with its own memory. A batch takes at most one block per
lane, the lane that waited longest first; a lane that was just served goes to the back, so a
caller who floods cannot delay live ones. After the first block of a batch the thread gathers
others for a few milliseconds: a block costs half as much CPU among eight as alone, and nobody
notices 8 ms beside the 320 that a block took to fill.

Nothing ends the engine but :meth:`Engine.stop`. An error costs the lanes of its batch. A thread
that sticks in a step, or dies, is abandoned with its buffers by :meth:`Engine.watch`, its lanes
fail, and a new thread goes on with all others.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

import structlog

from streamer.audio.codec import Samples
from streamer.errors import CallError, ServerFault, StudentFailed, StudentUnavailable
from streamer.inference.batch import Answer, BatchStep, Posteriors, Stepper, say_failed
from streamer.inference.health import Health
from streamer.inference.metadata import Memory
from streamer.inference.queues import Lane, Mark, Outbox, Ready

log = structlog.get_logger()

GATHER = 0.008
"""Seconds that a batch waits for more blocks after its first."""
STUCK_SECONDS = 5.0
"""A step that takes longer is given up."""
MAX_ABANDONED = 4
"""Threads stuck in a step at the same time; no new one is started beside them."""
PAUSE = 0.05
"""Seconds that a thread waits after an error it did not expect."""


class _Runner:
    """One thread and what it works in; an abandoned one shares nothing with its successor."""

    def __init__(self, run: Callable[[_Runner], None], step: BatchStep) -> None:
        self.step = step
        self.batch: list[tuple[Lane, Samples]] = []  # taken, and not yet answered
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
        gather: seconds that the first block of a batch waits for others.
        stepped: told after each step, on the engine's thread: blocks, seconds that the first of
            them waited, seconds of the step, blocks that failed.
        stuck_seconds: a step that takes longer is given up by :meth:`watch`.
        clock: seconds, monotonic.

    Attributes:
        health: what the steps say of the student.
        prepared: done when the student is warmed up for this thread; with its error, if any,
            with which the engine serves all the same.
    """

    def __init__(
        self,
        student: Stepper,
        deliver: Callable[[Callable[[], None]], object],
        *,
        max_batch: int = 32,
        gather: float = GATHER,
        stepped: Callable[[int, float, float, int], None] | None = None,
        stuck_seconds: float = STUCK_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.student = student
        self.health = Health(clock)
        self.prepared: Future[None] = Future()
        self._stepped = stepped
        self._max_batch = max_batch
        self._stuck_seconds = stuck_seconds
        self._clock = clock
        self._idle = False
        self._ready = Ready(gather, clock)
        self._hurried = threading.Event()
        self._outbox = Outbox(deliver)
        self._wake = threading.Condition()
        self._stopping = False
        self._abandoned: list[_Runner] = []
        self._runner: _Runner | None = self._new_runner()
        self._runner.thread.start()

    def new_lane(self, on_step: Callable[[Posteriors | CallError], None]) -> Lane:
        """A lane whose call has not begun."""
        return Lane(self.student.metadata.fresh(), on_step)

    def submit(self, lane: Lane, block: Samples) -> None:
        """Queue one block of int16 samples; a short one must be the lane's last."""
        self._queue(lane, block)

    def snapshot(self, lane: Lane, tell: Callable[[Memory], None]) -> None:
        """Ask for the memory after the blocks submitted so far.

        Args:
            lane: whose.
            tell: called with a copy where ``on_step`` is called, after the results of those blocks
                and before any other; never if the lane is closed or fails before.
        """
        self._queue(lane, Mark(tell))

    def _queue(self, lane: Lane, block: Samples | Mark) -> None:
        with self._wake:
            lane.pending.append(block)
            if not (lane.queued or lane.failed or lane.closed):
                self._ready.put(lane)
                if self._idle:
                    self._idle = False
                    self._wake.notify()

    def hurry(self) -> None:
        """Step what is queued at once: nothing that would be worth waiting for is to come."""
        with self._wake:
            self._ready.hurry()
            self._hurried.set()

    def close_lane(self, lane: Lane) -> None:
        """Forget the lane; a step in flight ends unheard."""
        with self._wake:
            lane.closed = True
            lane.pending.clear()

    def stop(self) -> None:
        """End the thread after the running step, if that ends; queued blocks are dropped."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
            runner = self._runner
        if runner is not None and runner.thread.is_alive():
            runner.thread.join(self._stuck_seconds)
            if runner.thread.is_alive():
                log.error("engine_left_behind", reason="the step is stuck")
        self._runner = None  # its buffers go at once, whoever still holds a lane of ours

    @property
    def alive(self) -> bool:
        """Whether there is a thread to answer."""
        with self._wake:
            return self._runner is not None and self._runner.thread.is_alive()

    @property
    def waited(self) -> float:
        """Seconds that the oldest block has waited; 0 if none does."""
        with self._wake:
            return self._ready.waited

    # --- looked after, where callbacks run ---

    def watch(self) -> None:
        """Replace a thread that is stuck or dead; to be called some ten times a second.

        A step is stuck if two looks in a row find it too long: a process that was itself stopped
        for a while must not take that for a stuck step.
        """
        with self._wake:
            if self._stopping:
                return
            runner = self._runner
            if runner is None:
                self._succeed()
            elif not runner.thread.is_alive():
                self._abandon(runner, "the engine's thread is dead")
            elif runner.began is not None:
                overdue = self._clock() - runner.began > self._stuck_seconds
                if overdue and runner.overdue:
                    self._abandon(runner, "the step is stuck")
                runner.overdue = overdue
        self._outbox.hand_out()

    def _abandon(self, runner: _Runner, reason: str) -> None:
        log.error("engine_replaced", reason=reason, calls=len(runner.batch))
        self.health.failed(reason)
        self._runner = None  # whatever the old one still brings is dropped
        self._abandoned.append(runner)
        self._fail([lane for lane, _ in runner.batch], StudentUnavailable(reason))
        self._succeed()

    def _succeed(self) -> None:
        """Start a thread in place of none; while that cannot be, all lanes that wait fail."""
        self._abandoned = [runner for runner in self._abandoned if runner.thread.is_alive()]
        try:
            if len(self._abandoned) >= MAX_ABANDONED:
                raise RuntimeError(f"{len(self._abandoned)} threads are stuck already")  # noqa: TRY301
            runner = self._new_runner()
            self._idle = False
            self._runner = runner
            runner.thread.start()
        except (MemoryError, RuntimeError) as error:
            self._runner = None
            self.health.failed(f"the engine has no thread: {error}")
            self._fail(self._ready.clear(), StudentUnavailable("the engine has no thread"))

    def _new_runner(self) -> _Runner:
        return _Runner(self._run, BatchStep(self.student, self._max_batch))

    def _fail(self, lanes: list[Lane], error: CallError) -> None:
        """Queue an error for each; under the lock."""
        for lane in lanes:
            lane.failed, lane.queued = True, False
            lane.pending.clear()
            self._outbox.put(lane, error)

    # --- on the thread ---

    def _run(self, runner: _Runner) -> None:
        if not self.prepared.done():
            self._prepare()
        while runner is self._runner and not self._stopping:
            try:
                if runner.batch:
                    self._drop(runner)
                elif self._take(runner):
                    self._advance(runner)
            except BaseException as error:  # noqa: BLE001 - without this thread no call is answered
                runner.fault = error
                say_failed(error)
                time.sleep(PAUSE)

    def _prepare(self) -> None:
        try:
            self.student.warm_up(self._max_batch)
        except BaseException as error:  # noqa: BLE001 - whoever waits for it hears of it
            self.prepared.set_exception(error)
        else:
            self.prepared.set_result(None)

    def _drop(self, runner: _Runner) -> None:
        """Fail the lanes that an unexpected error left behind."""
        with self._wake:
            if runner is self._runner:
                lanes = [lane for lane, _ in runner.batch]
                self._fail(lanes, ServerFault(runner.fault or RuntimeError()))
                runner.batch, runner.fault = [], None
                self.health.stepped(len(lanes), len(lanes))
        self._outbox.send()

    def _take(self, runner: _Runner) -> bool:
        """Make up the next batch; waits for the first block; False if there is none after all."""
        most = runner.step.limit
        with self._wake:
            while not self._ready and not self._stopping:
                self._idle = True
                self._wake.wait()
            self._idle = False
            rest = self._ready.rest(most)
            self._hurried.clear()
        if rest > 0.0:
            self._hurried.wait(rest)
        with self._wake:
            while self._ready and len(runner.batch) < most and not self._stopping:
                lane = self._ready.first
                block = lane.next_block(self._outbox)
                if block is not None:
                    runner.batch.append((lane, block))
                    lane.pending.popleft()
                else:
                    lane.queued = False  # closed meanwhile, or only asked for its memory
                self._ready.drop_first()  # not before: an error above must lose no lane
        if not runner.batch:
            self._outbox.send()  # else that is done after the step
        return bool(runner.batch)

    def _advance(self, runner: _Runner) -> None:
        batch = runner.batch
        runner.began = began = self._clock()
        waited = began - batch[0][0].since  # lanes are served in the order they came
        try:
            answers = runner.step.run([(block, lane.memory) for lane, block in batch])
            with self._wake:
                if runner is not self._runner:
                    return  # given up: these lanes have failed
                lanes = [lane for lane, _ in batch]
                self._settle(lanes, answers)
                self._ready.put_behind(lanes)
                runner.batch = []
            failures = sum(isinstance(answer, StudentFailed) for answer in answers)
            self.health.stepped(len(batch), failures)
            try:
                if self._stepped is not None:
                    self._stepped(len(batch), waited, self._clock() - began, failures)
            finally:
                self._outbox.send()
        finally:
            runner.began, runner.overdue = None, False

    def _settle(self, lanes: list[Lane], answers: list[Answer]) -> None:
        """Each lane its next memory or its failure; under the lock."""
        for lane, answer in zip(lanes, answers, strict=True):
            if isinstance(answer, StudentFailed):
                self._fail([lane], answer)
            else:
                posteriors, memory = answer
                lane.remember(memory)
                self._outbox.put(lane, posteriors)
