"""Results that cannot be delivered, and callbacks that raise."""

import queue
import threading

from streamer.errors import CallError, ServerFault
from streamer.inference.engine import Engine
from tests.streamer.doubles import WAIT_SECONDS
from tests.streamer.inference.streams import (
    StreamRecorder,
    assert_serves,
    block,
    expected,
    record,
)


def test_failed_delivery_is_repeated(fake):
    """With the next results, or with the next check."""
    due, errors = queue.SimpleQueue(), [RuntimeError("Event loop is closed"), MemoryError()]

    def deliver(callback):
        if errors:
            raise errors.pop()
        due.put(callback)

    engine = Engine(fake, deliver)
    recorder = StreamRecorder(engine)
    for number in (1, 2):
        recorder.submit(number)
        while len(errors) == 3 - number:
            threading.Event().wait(0.01)
    engine.watch()
    assert recorder.results == expected(1, 2)
    recorder.submit(3)
    due.get(timeout=WAIT_SECONDS)()
    assert recorder.results == expected(1, 2, 3)
    engine.stop()


def test_closed_loop_does_not_end_the_thread(fake):
    def deliver(_):
        raise RuntimeError("Event loop is closed")

    engine = Engine(fake, deliver)
    for number in range(3):
        fake.stepping.clear()
        StreamRecorder(engine).submit(number)
        assert fake.stepping.wait(WAIT_SECONDS)
    assert engine.alive
    engine.stop()


def test_callback_that_raises_costs_only_its_stream(bench):
    results = []

    def raising(result):
        results.append(result)
        if not isinstance(result, CallError):
            raise KeyError("update")

    stream = bench.engine.new_stream(raising)
    others = record(bench.engine, 3)
    others[0].submit(1)
    bench.engine.submit(stream, block(2))
    for recorder in others[1:]:
        recorder.submit(1)
    bench.engine.submit(stream, block(3))
    bench.wait(lambda: all(recorder.results for recorder in others))
    bench.quiet(0.05)
    assert len(results) == 2
    assert str(results[1]) == str(ServerFault(KeyError()))
    assert all(recorder.results == expected(1) for recorder in others)


def test_callback_that_raises_on_its_error_too(bench):
    def raising(_):
        raise KeyError("update")

    stream = bench.engine.new_stream(raising)
    bench.engine.submit(stream, block(2))
    assert_serves(bench)
    assert stream.closed
