"""Streams on an engine around a fake model, and the results that they must get."""

import numpy as np

from streamer.errors import CallError
from tests.streamer.doubles import WAIT_SECONDS, FakeModel

BLOCK = 1280


def block(first, length=BLOCK):
    """A block that is identified by its first sample."""
    samples = np.full(length, 7, np.int16)
    samples[0] = first
    return samples


class StreamRecorder:
    """A stream and its results."""

    def __init__(self, engine):
        self.results = []
        self.engine = engine
        self.stream = engine.new_stream(self.results.append)

    def submit(self, *firsts):
        for first in firsts:
            self.engine.submit(self.stream, block(first))

    @property
    def errors(self):
        return [result for result in self.results if isinstance(result, CallError)]


def record(engine, count):
    return [StreamRecorder(engine) for _ in range(count)]


def start_step(model, recorder, first):
    """Submit a block and return while its step waits at the gate."""
    model.gate.clear()
    model.stepping.clear()
    recorder.submit(first)
    assert model.stepping.wait(WAIT_SECONDS)


def expected(*blocks):
    """Results of a stream's blocks, given as samples or by their first sample."""
    model, results = FakeModel(), []
    memory = model.metadata.fresh(1)
    for item in blocks:
        samples = block(item) if isinstance(item, int) else item
        padded = np.zeros((1, BLOCK), np.float32)
        padded[0, : len(samples)] = samples / np.float32(32768)
        posteriors, memory = model.step(padded, np.array([len(samples)]), memory)
        results.append(tuple(posterior[0].tolist() for posterior in posteriors))
    return results


def assert_serves(bench):
    """A new stream gets the results of its blocks."""
    good = StreamRecorder(bench.engine)
    good.submit(30)
    bench.wait(lambda: good.results)
    assert good.results == expected(30)
