"""A short made-up call through the loaded student before the first real one."""

from __future__ import annotations

import numpy as np

from streamer.audio.codec import SAMPLE_RATE
from streamer.errors import ModelFileError
from streamer.inference.metadata import Floats
from streamer.inference.model import OnnxModel

SECONDS = 1.0
AGREEMENT = 1e-3
"""Largest difference allowed between a call alone and the same call in a batch."""


def self_test(student: OnnxModel) -> None:
    """Advance a made-up voice alone and in a batch with silence; both must say the same.

    Raises:
        ModelFileError: the student fails, its answer is not finite, does not sum to one, or
            depends on who is in the batch.
    """
    meta = student.metadata
    voice = _voice()
    blocks = voice[: len(voice) // meta.block * meta.block].reshape(-1, meta.block)
    try:
        alone = _run(student, blocks, rows=1)
        among = _run(student, blocks, rows=student.rows(3))
    except Exception as error:  # whatever the runtime throws, the file cannot be served
        raise ModelFileError(f"{meta.model_id}: self-test: {error}") from error
    for task, one, other in zip(("gender", "age_group", "age_band"), alone, among, strict=True):
        if not np.isfinite(one).all() or abs(float(one.sum()) - 1.0) > AGREEMENT:
            raise ModelFileError(f"{meta.model_id}: self-test: {task} is {one.tolist()}")
        if float(np.abs(one - other).max()) > AGREEMENT:
            raise ModelFileError(f"{meta.model_id}: self-test: {task} depends on the batch")


def made_up_block(samples: int) -> Floats:
    """So many samples, at most a second, of the made-up voice; float32 in [-1, 1] at 8 kHz."""
    return _voice()[:samples]


def _voice() -> Floats:
    """Harmonics of 150 Hz in syllables, float32 in [-1, 1] at 8 kHz."""
    t = np.arange(round(SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
    wave = sum(np.sin(2 * np.pi * 150 * k * t) / k for k in range(1, 20))
    voice: Floats = (0.1 * wave * (1 + np.sin(2 * np.pi * 4 * t))).astype(np.float32)
    return voice


def _run(student: OnnxModel, blocks: Floats, rows: int) -> list[Floats]:
    """Final posteriors of row 0, the other rows being silent calls."""
    meta = student.metadata
    memory = meta.fresh(rows)
    valid = np.full(rows, meta.block, np.int64)
    posteriors: list[Floats] = []
    for block in blocks:
        samples = np.zeros((rows, meta.block), np.float32)
        samples[0] = block
        posteriors, memory = student.step(samples, valid, memory)
    return [posterior[0] for posterior in posteriors]
