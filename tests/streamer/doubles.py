"""A student that gives every mistake away, and calls on an engine without a server."""

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
"""Far longer than anything takes; only a failing test waits for it."""


class FakeModel:
    """A student whose posteriors are a hash of all samples heard, in order, bit for bit.

    Args:
        state_size: longer than the two numbers it needs, so that a mixed-up row shows.
        plain_temperature: what the decision finds in the metadata.

    Attributes:
        batches: first sample of every row of every batch, as int16.
        gate: cleared, every step waits for it.
        stepping: set as soon as a step has begun.
        stuck: set as soon as a step with the STUCK marker has begun; it waits for ``freed``.
        room: most rows of a step; more are a MemoryError.
    """

    RAISES, NAN, INF, STUCK = 23456, 23457, 23458, 23459
    """Samples (at the start of a block) that make a step fail."""

    def __init__(self, state_size=8):
        self.metadata = Metadata.model_validate(
            {
                "contract": 1,
                "model_id": "fake-1",
                "sample_rate": 8000,
                "block": 1280,
                "state_size": state_size,
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
        self.batches = []
        self.warmed_up = []
        self.gate = threading.Event()
        self.gate.set()
        self.stepping = threading.Event()
        self.stuck = threading.Event()
        self.freed = threading.Event()
        self.room = 1000

    def rows(self, calls):
        return calls

    def buffer(self, shape, dtype):
        return np.zeros(shape, dtype)

    def warm_up(self, calls):
        self.warmed_up.append(calls)

    def step(self, samples, valid, memory):
        self.stepping.set()
        assert self.gate.wait(WAIT_SECONDS)
        firsts = np.rint(samples[:, 0] * 32768).astype(int).tolist()
        self.batches.append(firsts)
        if len(firsts) > self.room:
            raise MemoryError("marker")
        if self.STUCK in firsts:
            self.stuck.set()
            assert self.freed.wait(WAIT_SECONDS)
        if self.RAISES in firsts:
            raise ArithmeticError("marker")
        state, cache = memory
        after, kept = np.empty_like(state), np.empty_like(cache)
        rows = []
        for row, first in enumerate(firsts):
            assert (samples[row, valid[row] :] == 0).all(), "padding must be silence"
            assert (state[row] == state[row, 0]).all(), "a state of two streams"
            assert (cache[row] == int(state[row, 0]) & 0xFF).all(), "the cache of another stream"
            heard = np.rint(samples[row, : valid[row]] * 32768).astype("<i2").tobytes()
            # 24 bits, which a float32 holds exactly
            digest = zlib.crc32(heard, int(state[row, 0])) & 0xFFFFFF
            after[row], kept[row] = digest, digest & 0xFF
            rows.append(self._posteriors(digest))
            if first == self.NAN:
                rows[-1][1][0] = np.nan
            if first == self.INF:
                after[row, :2] = np.inf, -np.inf
        posteriors = [np.array([row[task] for row in rows], np.float32) for task in range(3)]
        return posteriors, Memory(after, kept)

    def _posteriors(self, digest):
        rows = []
        for classes in (2, 3, 4):
            weights = [1 + digest * prime % 251 for prime in (1, 3, 5, 7)[:classes]]
            rows.append([weight / sum(weights) for weight in weights])
        return rows


class Bench:
    """An engine whose results are handed out on the test's thread, when the test says so."""

    def __init__(self, student, max_batch=64, **options):
        self.student = student
        self._due = queue.SimpleQueue()
        self.engine = Engine(student, self._due.put, max_batch=max_batch, **options)

    def pump(self):
        """Hand out what is ready."""
        while not self._due.empty():
            self._due.get()()

    def wait(self, done):
        """Hand out until ``done()``."""
        until = time.monotonic() + WAIT_SECONDS
        while not done():
            with contextlib.suppress(queue.Empty):
                self._due.get(timeout=0.1)()
                continue
            assert self.engine.alive, "the engine's thread died"
            assert time.monotonic() < until, "the engine does not answer"

    def quiet(self, seconds=0.2):
        """Hand out until nothing comes for a while."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._due.get(timeout=seconds)()

    def settle(self, recorder):
        """Hand out until a call's backlog is done."""
        self.wait(lambda: recorder.session.backlog.blocks == 0)

    def session(self, **config):
        """A call on this engine and the recorder that listens to it."""
        recorder = Recorder()
        defaults = {"call_id": "call", "encoding": Encoding.MULAW, "sample_rate": SAMPLE_RATE}
        recorder.session = CallSession(CallConfig(**(defaults | config)), self.engine, recorder)
        return recorder

    def play(self, chunks, **config):
        """A whole call; numbers its messages from 1."""
        recorder = self.session(**config)
        for sequence, chunk in enumerate(chunks, start=1):
            recorder.session.audio(sequence, chunk)
            self.pump()
        return self.finish(recorder)

    def finish(self, recorder):
        """Finish a call and wait for its finals."""
        recorder.session.finish()
        self.wait(lambda: recorder.session.done or recorder.errors)
        recorder.session.close()
        return recorder


@dataclass
class Recorder:
    """Listens to one session."""

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
        """Posteriors by channel and speech heard: the same however the call is cut."""
        return {(u.channel, u.speech_seconds): u.posteriors for u in self.updates}
