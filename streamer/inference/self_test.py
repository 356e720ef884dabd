"""A short made-up call through a loaded model, before its first real one."""

from __future__ import annotations

import numpy as np

from streamer.audio.codec import SAMPLE_RATE
from streamer.errors import ModelFileError
from streamer.inference.metadata import TASKS, Floats
from streamer.inference.model import OnnxModel

TOLERANCE = 1e-3
"""Of probabilities: of their sum, and between a call alone and the same call in a batch."""


def self_test(model: OnnxModel) -> None:
    """Step a made-up voice alone and in a batch with silence, and compare the posteriors.

    Raises:
        ModelFileError: the model fails, or a posterior is not finite, does not sum to one, or
            depends on the other rows of the batch.
    """
    meta = model.metadata
    voice = synthetic_voice()
    blocks = voice[: len(voice) // meta.block * meta.block].reshape(-1, meta.block)
    try:
        alone = _final_posteriors(model, blocks, rows=1)
        batched = _final_posteriors(model, blocks, rows=model.padded_size(3))
    except Exception as error:  # of any type of the runtime
        raise ModelFileError(f"{meta.model_id}: self-test: {error}") from error
    for task, one, other in zip(TASKS, alone, batched, strict=True):
        if not np.isfinite(one).all() or abs(float(one.sum()) - 1.0) > TOLERANCE:
            raise ModelFileError(f"{meta.model_id}: self-test: {task} is {one.tolist()}")
        if float(np.abs(one - other).max()) > TOLERANCE:
            raise ModelFileError(f"{meta.model_id}: self-test: {task} depends on the batch")


def synthetic_voice() -> Floats:
    """Return one second of harmonics of 150 Hz in syllables, float32 in [-1, 1] at 8 kHz."""
    t = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    wave = sum(np.sin(2 * np.pi * 150 * k * t) / k for k in range(1, 20))
    voice: Floats = (0.1 * wave * (1 + np.sin(2 * np.pi * 4 * t))).astype(np.float32)
    return voice


def _final_posteriors(model: OnnxModel, blocks: Floats, rows: int) -> list[Floats]:
    """Return the last posteriors of row 0, the other rows being silent calls."""
    meta = model.metadata
    memory = meta.fresh(rows)
    valid = np.full(rows, meta.block, np.int64)
    posteriors: list[Floats] = []
    for block in blocks:
        samples = np.zeros((rows, meta.block), np.float32)
        samples[0] = block
        posteriors, memory = model.step(samples, valid, memory)
    return [posterior[0] for posterior in posteriors]
