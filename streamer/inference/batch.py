"""One model step for a batch of streams: input buffers, retries, memory limits."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from math import isfinite

import numpy as np
import structlog
from numpy.typing import NDArray

from streamer.audio.codec import Samples
from streamer.errors import InferenceFailed, InferenceUnavailable
from streamer.inference.metadata import Floats, Memory
from streamer.inference.model import OnnxModel

log = structlog.get_logger()

Posteriors = tuple[list[float], ...]
"""Class probabilities of each task, in the order of ``TASKS``; each list sums to 1."""
BlockResult = tuple[Posteriors, Memory] | InferenceFailed
"""Posteriors and next memory of a stream, or the error that its block caused."""

_SCALE = np.float32(1 / 32768)
GROW_AFTER = 100
"""Full batches without an error after which a limit set by memory rises by one block."""


class BatchRunner:
    """Steps the model with one block of each of several streams, in buffers of its own.

    Args:
        model: advances the streams.
        max_batch: most blocks in one step.

    Attributes:
        limit: most blocks that the next step should have, 1 to ``max_batch``: halved when memory
            runs out, then growing again.

    Raises:
        MemoryError: there is no memory for the buffers.
    """

    def __init__(self, model: OnnxModel, max_batch: int) -> None:
        self.limit = max_batch
        self._max_batch = max_batch
        self._full_batches = 0  # without an error, since the limit last changed
        self._model = model
        meta, rows = model.metadata, model.padded_size(max_batch)
        self._pcm = np.zeros((max_batch, meta.block), np.int16)
        self._samples = model.buffer((rows, meta.block), np.float32)
        self._valid = model.buffer((rows,), np.int64)
        self._memory = Memory(
            model.buffer((rows, meta.state_size), np.float32),
            model.buffer((rows, meta.cache_size), np.uint8),
        )

    def run(self, items: Sequence[tuple[Samples, Memory]]) -> list[BlockResult]:
        """Return one result per item; a failing batch is halved until it is one block.

        So an error costs only the blocks that cause it.

        Args:
            items: block (int16, at most ``metadata.block`` samples) and memory of each stream, at
                most ``max_batch`` of them; not modified.
        """
        try:
            results = self._step(items)
        except Exception as error:  # noqa: BLE001 - any error becomes the result of these blocks
            if isinstance(error, MemoryError):
                self._shrink_limit(len(items))
            if len(items) == 1:
                log_failure(error)
                if isinstance(error, MemoryError):
                    return [InferenceUnavailable("out of memory")]
                return [InferenceFailed(type(error).__name__)]
        else:
            self._grow_limit(len(items))
            return results
        # Not in the handler: the error's traceback keeps the memory of the failed step.
        half = len(items) // 2
        return [*self.run(items[:half]), *self.run(items[half:])]

    def _step(self, items: Sequence[tuple[Samples, Memory]]) -> list[BlockResult]:
        size, (blocks, memories) = len(items), zip(*items, strict=True)
        self._valid[:size] = lengths = [len(block) for block in blocks]
        if min(lengths) == self._pcm.shape[1]:  # almost always
            np.concatenate(blocks, out=self._pcm[:size].reshape(-1))
        else:
            self._pcm[:size] = 0
            for row, block in enumerate(blocks):
                self._pcm[row, : len(block)] = block
        samples = self._samples[:size]
        state, cache = self._memory.state[:size], self._memory.cache[:size]
        samples[:] = self._pcm[:size]  # a mixed-type product would allocate a buffer
        samples *= _SCALE
        np.concatenate([memory.state for memory in memories], out=state.reshape(-1))
        np.concatenate([memory.cache for memory in memories], out=cache.reshape(-1))
        posteriors, after = self._model.step(*self._padded(size))
        finite = _finite_rows([*posteriors, after.state])
        lists = [posterior.tolist() for posterior in posteriors]
        results: list[BlockResult] = []
        for row in range(size):
            if finite[row]:
                memory = Memory(after.state[row], after.cache[row])
                results.append((tuple(task[row] for task in lists), memory))
            else:
                log.error("inference_failed", reason="not finite")
                results.append(InferenceFailed("its answer is not finite"))
        return results

    def _padded(self, size: int) -> tuple[Floats, NDArray[np.int64], Memory]:
        """Return the inputs of ``size`` streams, padded with silent rows of new calls."""
        rows = self._model.padded_size(size)
        if rows > size:
            for part in (self._samples, self._valid, *self._memory):
                part[size:rows] = 0
        memory = Memory(self._memory.state[:rows], self._memory.cache[:rows])
        return self._samples[:rows], self._valid[:rows], memory

    def _shrink_limit(self, size: int) -> None:
        self._full_batches = 0
        self.limit = max(1, min(self.limit, size // 2))
        with contextlib.suppress(Exception):  # logging needs memory too
            log.warning("out_of_memory", blocks=size, next_batch=self.limit)

    def _grow_limit(self, size: int) -> None:
        if size < self.limit or self.limit == self._max_batch:
            return
        self._full_batches += 1
        if self._full_batches >= GROW_AFTER:
            self._full_batches = 0
            self.limit += 1


def _finite_rows(arrays: Sequence[Floats]) -> list[bool]:
    """Return for each row whether it is finite in all arrays [B, n]."""
    # A sum is finite only if all its terms are: half the work of testing each.
    with np.errstate(invalid="ignore", over="ignore"):
        if isfinite(sum(array.sum() for array in arrays)):  # almost always
            return [True] * len(arrays[0])
        sums = [array.sum(axis=1) for array in arrays]
    rows: list[bool] = np.isfinite(np.stack(sums)).all(axis=0).tolist()
    return rows


def log_failure(error: BaseException) -> None:
    """Log an error of the engine's thread; an error of the logger must not end the thread."""
    with contextlib.suppress(Exception):
        log.error("inference_failed", reason=type(error).__name__, exc_info=error)
