"""Batching, fairness, failures of single streams and the end of streams."""

import queue
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.errors import InferenceFailed
from streamer.inference.engine import Engine
from tests.streamer.doubles import WAIT_SECONDS, FakeModel
from tests.streamer.inference.streams import (
    BLOCK,
    StreamRecorder,
    block,
    expected,
    record,
    start_step,
)


@pytest.fixture
def own(make_bench, fake):
    """An engine of the test's own, whose model's gate it may close."""
    return make_bench(fake)


def test_blocks_are_answered_in_order(bench):
    recorder = StreamRecorder(bench.engine)
    recorder.submit(*range(1, 9))
    bench.wait(lambda: len(recorder.results) == 8)
    assert recorder.results == expected(*range(1, 9))
    assert len(set(map(str, recorder.results))) == 8


def test_short_block_is_padded_with_silence(bench):
    """The fake model checks the padding, which replaces what is left of a longer block."""
    long, short = record(bench.engine, 2)
    bench.engine.submit(long.stream, np.full(BLOCK, 999, np.int16))
    bench.wait(lambda: long.results)
    bench.engine.submit(short.stream, block(3, 320))
    bench.wait(lambda: short.results)
    assert short.results == expected(block(3, 320))


def test_samples_are_scaled_to_one(own, fake):
    seen = []
    step = fake.step

    def watched(samples, valid, memory):
        seen.append((samples.min(), samples.max(), samples.dtype, valid.dtype, memory.state.dtype))
        return step(samples, valid, memory)

    fake.step = watched
    recorder = StreamRecorder(own.engine)
    loud = np.zeros(BLOCK, np.int16)
    loud[:2] = -32768, 32767
    own.engine.submit(recorder.stream, loud)
    own.wait(lambda: recorder.results)
    assert seen == [(-1.0, np.float32(32767 / 32768), np.float32, np.int64, np.float32)]


def test_batch_takes_one_block_of_each_stream(own, fake):
    first, *others = record(own.engine, 6)
    start_step(fake, first, 100)
    for number, recorder in enumerate(others, start=1):
        recorder.submit(number, number, number)
    fake.gate.set()
    own.wait(lambda: all(len(recorder.results) == 3 for recorder in others))
    assert fake.batches == [[100], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5]]


def test_batch_is_at_most_max_batch(make_bench, fake):
    bench = make_bench(fake, max_batch=4)
    first, *others = record(bench.engine, 11)
    start_step(fake, first, 100)
    for number, recorder in enumerate(others):
        recorder.submit(number)
    fake.gate.set()
    bench.wait(lambda: all(recorder.results for recorder in others))
    assert fake.batches == [[100], [0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_flush_ends_the_batch_delay(make_bench, fake):
    """Both before the thread waits for more blocks and while it does."""
    bench = make_bench(fake, max_batch_delay_seconds=2 * WAIT_SECONDS)
    recorders = record(bench.engine, 2)
    for waiting in (False, True):
        for number, recorder in enumerate(recorders, start=1):
            recorder.submit(number)
        if waiting:
            bench.quiet(0.1)
            assert len(fake.batches) == 1, "not flushed yet"
        bench.engine.flush()
        bench.wait(lambda: all(len(r.results) == 1 + waiting for r in recorders))  # noqa: B023
    assert fake.batches == [[1, 2], [1, 2]]


@pytest.mark.parametrize("max_batch", [1, 2])
def test_flood_delays_others_by_one_batch_at_most(make_bench, fake, max_batch):
    bench = make_bench(fake, max_batch=max_batch)
    flood, live = record(bench.engine, 2)
    start_step(fake, flood, 1)
    flood.submit(*[1] * 50)
    live.submit(2)
    fake.gate.set()
    bench.wait(lambda: len(flood.results) == 51 and live.results)
    # the step that was running, then at the latest the one behind it
    assert 2 in fake.batches[1]
    assert all(batch.count(1) <= 1 for batch in fake.batches)


def test_streams_take_turns(make_bench, fake):
    """With batches of one, no stream is served twice before the others."""
    bench = make_bench(fake, max_batch=1)
    recorders = record(bench.engine, 3)
    start_step(fake, recorders[0], 0)
    for number, recorder in enumerate(recorders):
        recorder.submit(*[number] * 5)
    fake.gate.set()
    bench.wait(lambda: sum(len(recorder.results) for recorder in recorders) == 16)
    order = [batch[0] for batch in fake.batches]
    assert order[:13] == [0, 1, 2] * 4 + [0] or order[:13] == [0] + [1, 2, 0] * 4


@given(
    submissions=st.lists(st.integers(0, 5), min_size=1, max_size=60),
    max_batch=st.integers(1, 4),
)
def test_results_do_not_depend_on_the_load(submissions, max_batch):
    model, due = FakeModel(), queue.SimpleQueue()
    engine = Engine(model, due.put, max_batch=max_batch)
    recorders = record(engine, 6)
    firsts = [stream * 1000 + number for number, stream in enumerate(submissions)]
    try:
        for first, stream in zip(firsts, submissions, strict=True):
            recorders[stream].submit(first)
        while sum(len(recorder.results) for recorder in recorders) < len(submissions):
            due.get(timeout=WAIT_SECONDS)()
    finally:
        engine.stop()
    for batch in model.batches:
        assert 1 <= len(batch) <= max_batch
        streams = [first // 1000 for first in batch]
        assert len(set(streams)) == len(streams), "two blocks of one stream in a batch"
    for stream, recorder in enumerate(recorders):
        assert recorder.results == expected(*(f for f in firsts if f // 1000 == stream))


# --- failure ---


@pytest.mark.parametrize(
    ("marker", "reason"),
    [("RAISES", "ArithmeticError"), ("NAN", "not finite"), ("INF", "not finite")],
)
@pytest.mark.parametrize("position", [0, 2, 4])
def test_failure_costs_only_its_stream(own, fake, marker, reason, position):
    first, *recorders = record(own.engine, 6)
    start_step(fake, first, 100)
    for number, recorder in enumerate(recorders):
        recorder.submit(getattr(fake, marker) if number == position else number)
    fake.gate.set()
    own.wait(lambda: all(recorder.results for recorder in recorders))
    (failure,) = recorders[position].results
    assert isinstance(failure, InferenceFailed)
    assert failure.status == "INTERNAL"
    assert reason in str(failure)
    for number, recorder in enumerate(recorders):
        recorder.submit(10 + number)
    good = {n: recorder for n, recorder in enumerate(recorders) if n != position}
    own.wait(lambda: all(len(recorder.results) == 2 for recorder in good.values()))
    for number, recorder in good.items():
        assert recorder.results == expected(number, 10 + number), "the memory of another batch"
    assert len(recorders[position].results) == 1, "a result after the failure"


def test_failed_stream_gets_no_more_results(own, fake):
    recorder = StreamRecorder(own.engine)
    start_step(fake, recorder, fake.RAISES)
    recorder.submit(*range(5))
    fake.gate.set()
    own.wait(lambda: recorder.errors)
    own.quiet()
    assert len(recorder.results) == len(recorder.errors) == 1


def test_blocks_after_an_undelivered_failure_are_not_stepped(own, fake):
    bad, good = record(own.engine, 2)
    bad.submit(fake.RAISES)
    while own._due.empty():
        threading.Event().wait(0.01)
    bad.submit(5)
    good.submit(6)
    own.wait(lambda: good.results)
    assert fake.batches == [[fake.RAISES], [6]]


def test_engine_survives_failures_of_whole_batches(own, fake):
    for _ in range(3):
        recorders = record(own.engine, 3)
        for recorder in recorders:
            recorder.submit(fake.RAISES)
        own.wait(lambda recorders=recorders: all(recorder.errors for recorder in recorders))
    good = StreamRecorder(own.engine)
    good.submit(1)
    own.wait(lambda: good.results)
    assert good.results == expected(1)


# --- the end of streams and of the engine ---


def test_closed_stream_gets_no_results(own, fake):
    """Neither of the running step nor of queued blocks, which are not stepped."""
    running, waiting, other = record(own.engine, 3)
    start_step(fake, running, 1)
    running.submit(2)
    waiting.submit(3)
    other.submit(4)
    own.engine.close_stream(running.stream)
    own.engine.close_stream(waiting.stream)
    fake.gate.set()
    own.wait(lambda: other.results)
    own.quiet()
    assert running.results == waiting.results == []
    assert fake.batches == [[1], [4]]


def test_stream_closed_before_delivery_gets_no_result(own):
    recorder = StreamRecorder(own.engine)
    recorder.submit(1)
    while own._due.empty():  # the step is done, its result not yet delivered
        threading.Event().wait(0.01)
    own.engine.close_stream(recorder.stream)
    own.quiet()
    assert recorder.results == []


def test_blocks_of_a_closed_stream_are_not_stepped(own, fake):
    closed, other = record(own.engine, 2)
    own.engine.close_stream(closed.stream)
    closed.submit(1)
    other.submit(2)
    own.wait(lambda: other.results)
    own.quiet(0.05)
    assert (closed.results, fake.batches) == ([], [[2]])


def test_stop_ends_the_thread_after_the_running_step(own, fake):
    recorder = StreamRecorder(own.engine)
    start_step(fake, recorder, 0)
    recorder.submit(1, 2)
    stopping = threading.Thread(target=own.engine.stop)
    stopping.start()
    while not own.engine._stopping:
        threading.Event().wait(0.001)
    fake.gate.set()
    stopping.join(WAIT_SECONDS)
    assert not stopping.is_alive()
    assert not own.engine.alive
    assert fake.batches == [[0]]


def test_stop_when_idle(own):
    own.engine.stop()
    assert not own.engine.alive
