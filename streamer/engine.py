"""Batches blocks of all calls into one student, on one thread of its own.

Each channel of a call is a lane with its own state vector. A batch takes at most one block per
lane, the lane that waited longest first; a lane that was just served goes to the back, so a
caller who floods cannot delay live ones. After the first block of a batch the thread gathers
others for a few milliseconds: a block costs half as much CPU among eight as alone, and nobody
notices 8 ms beside the 160 that a block took to fill.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

import numpy as np
import structlog
from numpy.typing import NDArray

from streamer.codec import Samples
from streamer.errors import StudentFailed
from streamer.student import Floats, Metadata

Posteriors = tuple[list[float], ...]
"""One list of class probabilities per task."""

log = structlog.get_logger()

GATHER = 0.008
"""Seconds that a batch waits for more blocks after its first."""


class Stepper(Protocol):
    """What the engine needs of a student."""

    metadata: Metadata

    def step(
        self, samples: Floats, valid: NDArray[np.int64], state: Floats
    ) -> tuple[list[Floats], Floats]:
        """See :meth:`streamer.student.Student.step`."""
        ...


class Mark:
    """Stands among a lane's blocks: what is the state once those before it are done?

    Args:
        tell: called with a copy of the state where ``on_step`` is called, after the results of
            those blocks; never if the lane is closed or fails before.
    """

    __slots__ = ("tell",)

    def __init__(self, tell: Callable[[Floats], None]) -> None:
        self.tell = tell


class Lane:
    """One channel of one call, as the engine sees it.

    Args:
        state_size: D.
        on_step: called with the posteriors after each block, or with an error, at most once,
            after which nothing more comes. Runs where the engine's ``deliver`` runs it.
    """

    __slots__ = ("closed", "on_step", "pending", "queued", "since", "state")

    def __init__(
        self, state_size: int, on_step: Callable[[Posteriors | StudentFailed], None]
    ) -> None:
        self.state = np.zeros(state_size, np.float32)
        self.on_step = on_step
        self.pending: deque[Samples | Mark] = deque()
        self.queued = False  # in the ready queue or in the running batch
        self.since = 0.0  # when it entered the ready queue
        self.closed = False


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
    """

    def __init__(
        self,
        student: Stepper,
        deliver: Callable[[Callable[[], None]], object],
        *,
        max_batch: int = 32,
        gather: float = GATHER,
        stepped: Callable[[int, float, float, int], None] | None = None,
    ) -> None:
        self.student = student
        self._stepped = stepped
        self._deliver = deliver
        self._max_batch = max_batch
        self._gather = gather
        self._gather_until = 0.0
        self._idle = False
        self._ready: deque[Lane] = deque()
        self._marks: list[tuple[Lane, Mark, Floats]] = []  # reached, not yet told
        self._wake = threading.Condition()
        self._stopping = False
        block, size = student.metadata.block, student.metadata.state_size
        self._samples = np.zeros((max_batch, block), np.float32)
        self._valid = np.zeros(max_batch, np.int64)
        self._states = np.zeros((max_batch, size), np.float32)
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def new_lane(self, on_step: Callable[[Posteriors | StudentFailed], None]) -> Lane:
        """A lane whose call has not begun."""
        return Lane(self.student.metadata.state_size, on_step)

    def submit(self, lane: Lane, block: Samples) -> None:
        """Queue one block of int16 samples; a short one must be the lane's last."""
        self._queue(lane, block)

    def snapshot(self, lane: Lane, tell: Callable[[Floats], None]) -> None:
        """Ask for the state after the blocks submitted so far, see :class:`Mark`."""
        self._queue(lane, Mark(tell))

    def _queue(self, lane: Lane, block: Samples | Mark) -> None:
        with self._wake:
            lane.pending.append(block)
            if not lane.queued and not lane.closed:
                lane.queued = True
                lane.since = time.monotonic()
                if not self._ready:
                    self._gather_until = lane.since + self._gather
                self._ready.append(lane)
                if self._idle:
                    self._idle = False
                    self._wake.notify()

    def close_lane(self, lane: Lane) -> None:
        """Forget the lane; a step in flight ends unheard."""
        with self._wake:
            lane.closed = True
            lane.pending.clear()

    def stop(self) -> None:
        """End the thread after the running step; queued blocks are dropped."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join()

    @property
    def waited(self) -> float:
        """Seconds that the oldest block has waited; 0 if none does."""
        with self._wake:
            return time.monotonic() - self._ready[0].since if self._ready else 0.0

    def _take(self) -> list[tuple[Lane, Samples]]:
        """Blocks of the next batch; waits for the first; empty when stopping."""
        with self._wake:
            while not self._ready and not self._stopping:
                self._idle = True
                self._wake.wait()
            self._idle = False
            rest = 0.0
            if self._ready and len(self._ready) < self._max_batch:
                rest = self._gather_until - time.monotonic()
        if rest > 0.0:
            time.sleep(rest)
        with self._wake:
            batch: list[tuple[Lane, Samples]] = []
            while self._ready and len(batch) < self._max_batch and not self._stopping:
                lane = self._ready.popleft()
                block = self._next_block(lane)
                if block is not None:
                    batch.append((lane, block))
                else:
                    lane.queued = False  # closed meanwhile, or only asked for its state
            return batch

    def _next_block(self, lane: Lane) -> Samples | None:
        """The lane's next block; marks before it are answered."""
        while lane.pending:
            item = lane.pending.popleft()
            if not isinstance(item, Mark):
                return item
            self._marks.append((lane, item, lane.state.copy()))
        return None

    def _requeue(self, lanes: list[Lane]) -> None:
        now = time.monotonic()
        with self._wake:
            for lane in lanes:
                lane.queued = bool(lane.pending) and not lane.closed
                if lane.queued:
                    lane.since = now
                    self._gather_until = 0.0  # a call behind its time need not wait for others
                    self._ready.append(lane)

    def _run(self) -> None:
        while True:
            batch = self._take()
            if self._stopping:
                return
            if self._marks:
                marks, self._marks = self._marks, []
                self._deliver(lambda marks=marks: _tell(marks))  # type: ignore[misc]
            if batch:
                began = time.monotonic()
                waited = began - batch[0][0].since  # lanes are served in the order they came
                results = self._step(batch)
                if self._stepped is not None:
                    failures = sum(isinstance(result, StudentFailed) for _, result in results)
                    self._stepped(len(batch), waited, time.monotonic() - began, failures)
                self._requeue([lane for lane, _ in batch])
                self._deliver(lambda results=results: _hand_out(results))  # type: ignore[misc]

    def _step(
        self, batch: list[tuple[Lane, Samples]]
    ) -> list[tuple[Lane, Posteriors | StudentFailed]]:
        """Advance the lanes; a failure costs only the lanes that cause it."""
        size = len(batch)
        for row, (lane, block) in enumerate(batch):
            samples = self._samples[row]
            np.multiply(block, np.float32(1 / 32768), out=samples[: len(block)])
            samples[len(block) :] = 0.0
            self._valid[row] = len(block)
            self._states[row] = lane.state
        try:
            posteriors, after = self.student.step(
                self._samples[:size], self._valid[:size], self._states[:size]
            )
            # A sum is finite only if all it adds are: half the work of looking at each.
            with np.errstate(invalid="ignore", over="ignore"):
                sums = [answer.sum(axis=1) for answer in (*posteriors, after)]
            fine: list[bool] = np.isfinite(np.stack(sums)).all(axis=0).tolist()
            lists = [posterior.tolist() for posterior in posteriors]
        except Exception as error:
            if size > 1:
                return [result for item in batch for result in self._step([item])]
            log.exception("student_failed")
            return [(batch[0][0], StudentFailed(type(error).__name__))]
        results: list[tuple[Lane, Posteriors | StudentFailed]] = []
        for row, (lane, _) in enumerate(batch):
            if fine[row]:
                lane.state[:] = after[row]
                results.append((lane, tuple(task[row] for task in lists)))
            else:
                log.error("student_failed", reason="not finite")
                results.append((lane, StudentFailed("its answer is not finite")))
        return results


def _hand_out(results: list[tuple[Lane, Posteriors | StudentFailed]]) -> None:
    for lane, result in results:
        if not lane.closed:
            if isinstance(result, StudentFailed):
                lane.closed = True
            lane.on_step(result)


def _tell(marks: list[tuple[Lane, Mark, Floats]]) -> None:
    for lane, mark, state in marks:
        if not lane.closed:
            mark.tell(state)
