"""One student step for several calls: buffers, retries, and how many calls fit into memory."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from math import isfinite
from typing import Any, Protocol

import numpy as np
import structlog
from numpy.typing import DTypeLike, NDArray

from streamer.audio.codec import Samples
from streamer.errors import InferenceFailed, InferenceUnavailable
from streamer.inference.metadata import Floats, Memory, Metadata

log = structlog.get_logger()

Posteriors = tuple[list[float], ...]
"""One list of class probabilities per task."""
Answer = tuple[Posteriors, Memory] | InferenceFailed
"""What became of one call: its posteriors and its memory, or why there are none."""

_SCALE = np.float32(1 / 32768)
GROW_AFTER = 100
"""Full batches without a fault after which a limit set by memory rises by one call."""


class Stepper(Protocol):
    """What the engine needs of a student."""

    metadata: Metadata

    def step(
        self, samples: Floats, valid: NDArray[np.int64], memory: Memory
    ) -> tuple[list[Floats], Memory]:
        """See :meth:`streamer.inference.model.OnnxModel.step`."""
        ...

    def rows(self, calls: int) -> int:
        """See :meth:`streamer.inference.model.OnnxModel.rows`."""
        ...

    def buffer(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """See :meth:`streamer.inference.model.OnnxModel.buffer`."""
        ...

    def warm_up(self, calls: int) -> None:
        """See :meth:`streamer.inference.model.OnnxModel.warm_up`."""
        ...


class BatchRunner:
    """Advances calls by a block each, in buffers of its own.

    Args:
        student: whose step it is.
        max_batch: most calls in one step.

    Attributes:
        limit: most calls that the next step should have, 1 to ``max_batch``: half of those that
            did not fit into memory, growing again while nothing happens.
    """

    def __init__(self, student: Stepper, max_batch: int) -> None:
        self.limit = max_batch
        self._max_batch = max_batch
        self._fine = 0
        self._student = student
        meta, most = student.metadata, student.rows(max_batch)
        self._whole = np.zeros((max_batch, meta.block), np.int16)
        self._samples = student.buffer((most, meta.block), np.float32)
        self._valid = student.buffer((most,), np.int64)
        self._memory = Memory(
            student.buffer((most, meta.state_size), np.float32),
            student.buffer((most, meta.cache_size), np.uint8),
        )

    def run(self, rows: Sequence[tuple[Samples, Memory]]) -> list[Answer]:
        """One answer a row; a failure costs only the rows that cause it.

        Args:
            rows: block (int16, at most ``block`` samples) and memory of each call, at most
                ``max_batch``; not changed.
        """
        try:
            answers = self._attempt(rows)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is an answer to these rows
            if isinstance(error, MemoryError):
                self._shrink(len(rows))
            if len(rows) == 1:
                log_failure(error)
                if isinstance(error, MemoryError):
                    return [InferenceUnavailable("out of memory")]
                return [InferenceFailed(type(error).__name__)]
        else:
            self._grow(len(rows))
            return answers
        # Not in the handler: the error holds all that the attempt had.
        half = len(rows) // 2
        return [*self.run(rows[:half]), *self.run(rows[half:])]

    def _attempt(self, rows: Sequence[tuple[Samples, Memory]]) -> list[Answer]:
        size, (blocks, memories) = len(rows), zip(*rows, strict=True)
        self._valid[:size] = lengths = [len(block) for block in blocks]
        if min(lengths) == self._whole.shape[1]:  # as nearly always
            np.concatenate(blocks, out=self._whole[:size].reshape(-1))
        else:
            self._whole[:size] = 0
            for row, block in enumerate(blocks):
                self._whole[row, : len(block)] = block
        samples = self._samples[:size]
        state, cache = self._memory.state[:size], self._memory.cache[:size]
        samples[:] = self._whole[:size]  # converted first: in the product numpy needs a buffer
        samples *= _SCALE
        np.concatenate([memory.state for memory in memories], out=state.reshape(-1))
        np.concatenate([memory.cache for memory in memories], out=cache.reshape(-1))
        posteriors, after = self._student.step(*self._filled_up(size))
        fine = _finite([*posteriors, after.state])
        lists = [posterior.tolist() for posterior in posteriors]
        answers: list[Answer] = []
        for row in range(size):
            if fine[row]:
                memory = Memory(after.state[row], after.cache[row])
                answers.append((tuple(task[row] for task in lists), memory))
            else:
                log.error("inference_failed", reason="not finite")
                answers.append(InferenceFailed("its answer is not finite"))
        return answers

    def _filled_up(self, size: int) -> tuple[Floats, NDArray[np.int64], Memory]:
        """The first rows, and silent ones of calls that have not begun behind them."""
        rows = self._student.rows(size)
        if rows > size:
            for part in (self._samples, self._valid, *self._memory):
                part[size:rows] = 0
        memory = Memory(self._memory.state[:rows], self._memory.cache[:rows])
        return self._samples[:rows], self._valid[:rows], memory

    def _shrink(self, size: int) -> None:
        self._fine = 0
        self.limit = max(1, min(self.limit, size // 2))
        with contextlib.suppress(Exception):  # there is little memory, also for a line of log
            log.warning("out_of_memory", blocks=size, next_batch=self.limit)

    def _grow(self, size: int) -> None:
        if size < self.limit or self.limit == self._max_batch:
            return
        self._fine += 1
        if self._fine >= GROW_AFTER:
            self._fine = 0
            self.limit += 1


def _finite(answers: Sequence[Floats]) -> list[bool]:
    """Which rows of all these hold nothing but finite numbers."""
    # A sum is finite only if all it adds are: half the work of looking at each.
    with np.errstate(invalid="ignore", over="ignore"):
        if isfinite(sum(answer.sum() for answer in answers)):  # as nearly always
            return [True] * len(answers[0])
        sums = [answer.sum(axis=1) for answer in answers]
    rows: list[bool] = np.isfinite(np.stack(sums)).all(axis=0).tolist()
    return rows


def log_failure(error: BaseException) -> None:
    """Log an error of the engine's thread; a log that cannot be written must not end it."""
    with contextlib.suppress(Exception):
        log.error("inference_failed", reason=type(error).__name__, exc_info=error)
