"""Steps that are stuck, errors outside the model, and threads that are replaced."""

import threading

import numpy as np
import pytest

from streamer.errors import CallError, InferenceUnavailable, ServerFault
from streamer.inference.engine import MAX_ABANDONED
from tests.streamer.doubles import WAIT_SECONDS
from tests.streamer.inference.streams import (
    StreamRecorder,
    assert_serves,
    expected,
    record,
    start_step,
)


@pytest.fixture
def bench(make_bench, fake, clock):
    """An engine on the test's clock, with a timeout of 5 s."""
    made = make_bench(fake, timeout_seconds=5.0, clock=clock)
    yield made
    fake.freed.set()
    made.engine.stop()


def advance(clock, engine, seconds):
    """Let time pass; two checks in a row can find a step stuck."""
    clock.now += seconds
    engine.watch()
    engine.watch()


def start_stuck_step(bench, model, *others):
    """Return a stream whose step is stuck, in one batch with ``others``."""
    first, bad = record(bench.engine, 2)
    start_step(model, first, 1)
    model.stuck.clear()
    bad.submit(model.STUCK)
    for other in others:
        other.submit(3)
    model.gate.set()
    assert model.stuck.wait(WAIT_SECONDS)
    bench.wait(lambda: first.results)
    return bad


# --- stuck steps ---


def test_stuck_step_costs_only_its_batch(bench, fake, clock):
    mate, other = record(bench.engine, 2)
    bad = start_stuck_step(bench, fake, mate)
    other.submit(10, 11)
    advance(clock, bench.engine, 4.9)
    bench.quiet(0.05)
    assert bad.results == mate.results == other.results == []
    advance(clock, bench.engine, 0.2)
    for recorder in (bad, mate):
        (error,) = recorder.results
        assert isinstance(error, InferenceUnavailable)
        assert (error.status, error.retry_after) == ("UNAVAILABLE", 1.0)
        assert str(error) == str(InferenceUnavailable("the step is stuck"))
    bench.wait(lambda: len(other.results) == 2)
    assert other.results == expected(10, 11)
    assert bench.engine.health.reason == "the step is stuck"


def test_only_the_first_thread_warms_up(bench, fake, clock):
    """Calls already wait for a later one."""
    bench.engine.prepared.result(WAIT_SECONDS)
    start_stuck_step(bench, fake)
    advance(clock, bench.engine, 5.1)
    assert_serves(bench)
    assert fake.warmed_up == [64]


def test_engine_serves_after_a_failed_warm_up(make_bench, fake, monkeypatch):
    def no_memory(_):
        raise MemoryError("marker")

    monkeypatch.setattr(fake, "warm_up", no_memory)
    bench = make_bench(fake)
    assert_serves(bench)
    assert str(bench.engine.prepared.exception()) == "marker"


def test_late_result_of_a_stuck_step_is_dropped(bench, fake, clock):
    """It changes neither memories nor buffers nor streams of the successor."""
    mate, other = record(bench.engine, 2)
    bad = start_stuck_step(bench, fake, mate)
    replaced = bench.engine._worker
    other.submit(10)
    advance(clock, bench.engine, 6)
    bench.wait(lambda: other.results)
    memories = [recorder.stream.memory.copy() for recorder in (bad, mate)]
    health = bench.engine.health.reason
    start_step(fake, other, 11)  # the successor is in its step, its buffers filled
    fake.freed.set()
    replaced.thread.join(WAIT_SECONDS)
    assert not replaced.thread.is_alive()
    fake.gate.set()
    bench.wait(lambda: len(other.results) == 2)
    other.submit(12)
    bench.wait(lambda: len(other.results) == 3)
    assert other.results == expected(10, 11, 12)
    assert len(bad.results) == len(mate.results) == 1
    assert bench.engine.health.reason == health
    for recorder, memory in zip((bad, mate), memories, strict=True):
        for part, before in zip(recorder.stream.memory, memory, strict=True):
            np.testing.assert_array_equal(part, before)


def test_one_overdue_check_replaces_nothing(bench, fake, clock):
    """If the process was suspended, the step had no chance to end before the first check."""
    recorder = StreamRecorder(bench.engine)
    start_step(fake, recorder, 1)
    clock.now += 1000
    bench.engine.watch()
    fake.gate.set()
    bench.wait(lambda: recorder.results)
    bench.wait(lambda: bench.engine._worker.step_started is None)
    bench.engine.watch()
    assert not recorder.errors
    assert bench.engine.health.healthy


def test_blocks_of_a_failed_stream_are_not_stepped(bench, fake, clock):
    bad = start_stuck_step(bench, fake)
    bad.submit(20, 21)
    advance(clock, bench.engine, 6)
    bad.submit(22)
    assert_serves(bench)
    assert len(bad.results) == 1
    assert not {20, 21, 22} & {first for batch in fake.batches for first in batch}


def test_stuck_threads_are_limited(bench, fake, clock):
    """If each successor is stuck too, waiting streams fail until a thread returns."""
    before = threading.active_count()
    for _ in range(MAX_ABANDONED):
        start_stuck_step(bench, fake)
        advance(clock, bench.engine, 6)
    assert not bench.engine.alive
    assert threading.active_count() <= before - 1 + MAX_ABANDONED
    late = StreamRecorder(bench.engine)
    late.submit(1)
    bench.engine.watch()
    (error,) = late.results
    assert str(error) == str(InferenceUnavailable("the engine has no thread"))
    assert "4 threads are stuck already" in bench.engine.health.reason
    stuck = [worker.thread for worker in bench.engine._abandoned]
    fake.freed.set()
    for thread in stuck:
        thread.join(WAIT_SECONDS)
    bench.engine.watch()
    assert_serves(bench)
    assert threading.active_count() <= before


def test_stop_does_not_wait_for_a_stuck_step(make_bench, fake):
    bench = make_bench(fake, timeout_seconds=0.1)
    start_stuck_step(bench, fake)
    stopping = threading.Thread(target=bench.engine.stop)
    stopping.start()
    stopping.join(WAIT_SECONDS)
    assert not stopping.is_alive()
    fake.freed.set()


# --- errors outside the model ---


def test_error_while_a_batch_is_collected_loses_no_stream(bench, fake):
    class FullList(list):
        def append(self, item):
            if len(self) == 1 and not raised:
                raised.append(item)
                raise MemoryError
            super().append(item)

    raised = []
    first, *recorders = record(bench.engine, 4)
    start_step(fake, first, 1)
    for number, recorder in enumerate(recorders):
        recorder.submit(10 + number)
    collect = bench.engine._collect_batch

    def collect_into_full_list(worker):
        worker.batch = FullList()
        return collect(worker)

    bench.engine._collect_batch = collect_into_full_list
    fake.gate.set()
    bench.wait(lambda: all(recorder.results for recorder in recorders))
    assert raised
    (error,) = recorders[0].results  # was in the batch already
    assert isinstance(error, ServerFault)
    assert (error.status, str(error)) == ("INTERNAL", str(ServerFault(MemoryError())))
    for number, recorder in enumerate(recorders[1:], start=1):
        assert recorder.results == expected(10 + number)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, MemoryError])
def test_base_exceptions_cost_only_their_batch(bench, fake, error):
    step = fake.step

    def raising(samples, valid, memory):
        if round(float(samples[0, 0]) * 32768) == 99:
            raise error
        return step(samples, valid, memory)

    fake.step = raising
    bad = StreamRecorder(bench.engine)
    bad.submit(99)
    bench.wait(lambda: bad.results)
    assert isinstance(bad.results[0], CallError)
    assert_serves(bench)


def test_metrics_that_raise_cost_no_call(make_bench, fake):
    def raising(*_):
        raise ZeroDivisionError

    bench = make_bench(fake, on_batch=raising)
    recorder = StreamRecorder(bench.engine)
    for number in (1, 2, 3):
        recorder.submit(number)
        bench.wait(lambda number=number: len(recorder.results) == number)
    assert recorder.results == expected(1, 2, 3)


def test_dead_thread_is_replaced(bench):
    worker = bench.engine._worker
    with bench.engine._wake:
        bench.engine._worker = None  # it leaves its loop
        bench.engine._ready.push(bench.engine.new_stream(lambda _: None))
        bench.engine._wake.notify()
    worker.thread.join(WAIT_SECONDS)
    bench.engine._worker = worker
    assert not bench.engine.alive
    bench.engine.watch()
    assert bench.engine.alive
    assert bench.engine.health.reason == "the engine's thread is dead"
    assert_serves(bench)


def test_successor_without_memory_is_tried_again(bench, fake, clock, monkeypatch):
    bad = start_stuck_step(bench, fake)
    monkeypatch.setattr(bench.engine, "_new_worker", lambda: (_ for _ in ()).throw(MemoryError()))
    advance(clock, bench.engine, 6)
    assert bad.errors
    assert not bench.engine.alive
    monkeypatch.undo()
    bench.engine.watch()
    assert_serves(bench)
