"""A fake model that reveals every mistake, and calls on an engine without a server."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
import zlib
from dataclasses import dataclass, field

import numpy as np

from streamer.audio.codec import SAMPLE_RATE, Encoding
from streamer.inference.engine import Engine
from streamer.inference.metadata import TASKS, Memory, Metadata
from streamer.session.session import CallConfig, CallSession

WAIT_SECONDS = 30.0
"""Far longer than any wait of a passing test."""


class FakeModel:
    """A model whose posteriors are a hash of all samples of the stream, in order, bit for bit.

    Attributes:
        batches: first sample of every row of every batch, as int16.
        gate: while cleared, every step waits for it.
        stepping: set as soon as a step has started.
        stuck: set as soon as a step with the STUCK marker has started; it waits for ``freed``.
        max_rows: most rows of a step; more are a MemoryError.
    """

    RAISES, NAN, INF, STUCK = 23456, 23457, 23458, 23459
    """Samples (at the start of a block) that make a step fail."""

    def __init__(self):
        self.metadata = Metadata.model_validate(
            {
                "contract": 1,
                "model_id": "fake-1",
                "sample_rate": 8000,
                "block": 1280,
                "state_size": 8,  # of which one number is needed: a mixed-up row shows
                "cache_size": 4,
                "labels": {
                    "gender": ["female", "male"],
                    "age_group": ["young", "middle", "senior"],
                    "age_band": ["teens", "20s", "40s", "60s"],
                    "parent": [0, 0, 1, 2],
                },
                "calibration": {t: {"speech_seconds": [1], "temperature": [1]} for t in TASKS},
                "decision": {t: {"min_speech_seconds": 1, "min_confidence": 0.4} for t in TASKS},
            }
        )
        self.digest = "fa" * 32
        self.providers, self.device = [], ""
        self.batches = []
        self.warmed_up = []
        self.gate = threading.Event()
        self.gate.set()
        self.stepping = threading.Event()
        self.stuck = threading.Event()
        self.freed = threading.Event()
        self.max_rows = 1000

    def padded_size(self, size):
        return size

    def buffer(self, shape, dtype):
        return np.zeros(shape, dtype)

    def warm_up(self, max_size):
        self.warmed_up.append(max_size)

    def close(self):
        pass

    def step(self, samples, valid, memory):
        self.stepping.set()
        assert self.gate.wait(WAIT_SECONDS)
        firsts = np.rint(samples[:, 0] * 32768).astype(int).tolist()
        self.batches.append(firsts)
        if len(firsts) > self.max_rows:
            raise MemoryError("marker")
        if self.STUCK in firsts:
            self.stuck.set()
            assert self.freed.wait(WAIT_SECONDS)
        if self.RAISES in firsts:
            raise ArithmeticError("marker")
        state, cache = memory
        next_state, next_cache = np.empty_like(state), np.empty_like(cache)
        rows = []
        for row, first in enumerate(firsts):
            assert (samples[row, valid[row] :] == 0).all(), "padding must be silence"
            assert (state[row] == state[row, 0]).all(), "a state of two streams"
            assert (cache[row] == int(state[row, 0]) & 0xFF).all(), "the cache of another stream"
            pcm = np.rint(samples[row, : valid[row]] * 32768).astype("<i2").tobytes()
            # 24 bits, which a float32 holds exactly
            digest = zlib.crc32(pcm, int(state[row, 0])) & 0xFFFFFF
            next_state[row], next_cache[row] = digest, digest & 0xFF
            rows.append(self._posteriors(digest))
            if first == self.NAN:
                rows[-1][1][0] = np.nan
            if first == self.INF:
                next_state[row, :2] = np.inf, -np.inf
        posteriors = [np.array([row[task] for row in rows], np.float32) for task in range(3)]
        return posteriors, Memory(next_state, next_cache)

    def _posteriors(self, digest):
        rows = []
        for classes in (2, 3, 4):
            weights = [1 + digest * prime % 251 for prime in (1, 3, 5, 7)[:classes]]
            rows.append([weight / sum(weights) for weight in weights])
        return rows


class Bench:
    """An engine whose results are delivered on the test's thread, when the test pumps."""

    def __init__(self, student, max_batch=64, **options):
        self.student = student
        self._due = queue.SimpleQueue()
        self.engine = Engine(student, self._due.put, max_batch=max_batch, **options)

    def pump(self):
        """Deliver the results that are ready."""
        while not self._due.empty():
            self._due.get()()

    def wait(self, done):
        """Deliver results until ``done()``."""
        until = time.monotonic() + WAIT_SECONDS
        while not done():
            with contextlib.suppress(queue.Empty):
                self._due.get(timeout=0.1)()
                continue
            assert self.engine.alive, "the engine's thread died"
            assert time.monotonic() < until, "the engine does not answer"

    def quiet(self, seconds=0.2):
        """Deliver results until none has come for ``seconds``."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._due.get(timeout=seconds)()

    def settle(self, recorder):
        """Deliver results until the call has no backlog."""
        self.wait(lambda: recorder.session.backlog.blocks == 0)

    def session(self, **config):
        """Open a session on this engine; returns the recorder that is its listener."""
        recorder = Recorder()
        defaults = {"call_id": "call", "encoding": Encoding.MULAW, "sample_rate": SAMPLE_RATE}
        recorder.session = CallSession(CallConfig(**(defaults | config)), self.engine, recorder)
        return recorder

    def play(self, chunks, **config):
        """Run a whole call; its messages are numbered from 1."""
        recorder = self.session(**config)
        for sequence, chunk in enumerate(chunks, start=1):
            recorder.session.audio(sequence, chunk)
            self.pump()
        return self.finish(recorder)

    def finish(self, recorder):
        """Finish a call and wait for its final updates."""
        recorder.session.finish()
        self.wait(lambda: recorder.session.done or recorder.errors)
        recorder.session.close()
        return recorder


@dataclass
class Recorder:
    """The listener of one session."""

    updates: list = field(default_factory=list)
    events: list = field(default_factory=list)
    errors: list = field(default_factory=list)
    session: CallSession | None = None

    def on_prediction(self, update):
        self.updates.append(update)

    def on_speech(self, channel, started, audio_seconds):
        self.events.append((channel, started, audio_seconds))

    def on_progress(self):
        pass

    def on_error(self, error):
        self.errors.append(error)

    @property
    def finals(self):
        """Final update by channel."""
        finals = [update for update in self.updates if update.final]
        assert len({update.channel for update in finals}) == len(finals)
        return {update.channel: update for update in finals}

    @property
    def course(self):
        """Posteriors by channel and speech: the same however the audio is cut into messages."""
        return {(u.channel, u.speech_seconds): u.posteriors for u in self.updates}
