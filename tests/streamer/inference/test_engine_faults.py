"""An engine that is hurt: what sticks, raises or runs out, and who notices."""

import queue
import threading

import numpy as np
import pytest

from streamer.errors import CallError, InferenceUnavailable, ServerFault
from streamer.inference.engine import MAX_ABANDONED, Engine

BLOCK = 1280
WAIT = 20.0


def block(first):
    samples = np.full(BLOCK, 7, np.int16)
    samples[0] = first
    return samples


class Clock:
    """Stands still unless it is turned; the first look then finds the step overdue."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def pass_over(self, engine, seconds):
        self.now += seconds
        engine.watch()
        engine.watch()


class ReportedTotals:
    def __init__(self, engine):
        self.results = []
        self.engine = engine
        self.stream = engine.new_stream(self.results.append)

    def say(self, *firsts):
        for first in firsts:
            self.engine.submit(self.stream, block(first))

    @property
    def errors(self):
        return [r for r in self.results if isinstance(r, CallError)]


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def student(make_student):
    return make_student()


@pytest.fixture
def bench(make_bench, student, clock):
    """An engine whose clock the test turns; given up after 5 s."""
    made = make_bench(student, timeout_seconds=5.0, clock=clock)
    yield made
    student.freed.set()
    made.engine.stop()


def alone(make_bench, make_student, *firsts):
    """What a stream hears that is alone on an engine without faults."""
    quiet = make_bench(make_student())
    heard = ReportedTotals(quiet.engine)
    heard.say(*firsts)
    quiet.wait(lambda: len(heard.results) == len(firsts))
    return heard.results


def stick(bench, student, *others):
    """A stream whose step is stuck, in one batch with ``others``."""
    first, bad = ReportedTotals(bench.engine), ReportedTotals(bench.engine)
    student.gate.clear()
    student.stepping.clear()
    first.say(1)
    assert student.stepping.wait(WAIT)
    student.stuck.clear()
    bad.say(student.STUCK)
    for heard in others:
        heard.say(3)
    student.gate.set()
    assert student.stuck.wait(WAIT)
    bench.wait(lambda: first.results)
    return bad


# --- a step that does not come back ---


def test_stuck_step_costs_its_batch_and_no_other_lane(bench, student, clock, make_bench):
    mate, other = ReportedTotals(bench.engine), ReportedTotals(bench.engine)
    bad = stick(bench, student, mate)
    other.say(10, 11)
    clock.pass_over(bench.engine, 4.9)
    bench.quiet(0.05)
    assert bad.results == mate.results == other.results == []
    clock.pass_over(bench.engine, 0.2)
    for heard in (bad, mate):
        (error,) = heard.results
        assert isinstance(error, InferenceUnavailable)
        assert (error.status, error.retry_after) == ("UNAVAILABLE", 1.0)
        assert str(error) == "the student failed on this call: the step is stuck"
    bench.wait(lambda: len(other.results) == 2)
    assert other.results == alone(make_bench, type(student), 10, 11)
    assert bench.engine.health.reason == "the step is stuck"


def test_only_the_first_thread_warms_the_student_up(bench, student, clock):
    """A later one has calls that wait for it."""
    bench.engine.prepared.result(WAIT)
    stick(bench, student)
    clock.pass_over(bench.engine, 5.1)
    heard = ReportedTotals(bench.engine)
    heard.say(2)
    bench.wait(lambda: heard.results)
    assert student.warmed_up == [64]


def test_an_engine_serves_without_being_prepared(make_bench, student, monkeypatch):
    def starved(_):
        raise MemoryError("marker")

    monkeypatch.setattr(student, "warm_up", starved)
    made = make_bench(student)
    heard = ReportedTotals(made.engine)
    heard.say(1)
    made.wait(lambda: heard.results)
    assert not heard.errors
    assert str(made.engine.prepared.exception()) == "marker"


def test_what_a_stuck_step_brings_after_all_is_dropped(bench, student, clock, make_bench):
    """Neither states nor buffers nor streams of the successor notice."""
    mate, other = ReportedTotals(bench.engine), ReportedTotals(bench.engine)
    bad = stick(bench, student, mate)
    old = bench.engine._worker
    other.say(10)
    clock.pass_over(bench.engine, 6)
    bench.wait(lambda: other.results)
    memories = [heard.stream.memory.copy() for heard in (bad, mate, other)]
    health = bench.engine.health.reason
    student.gate.clear()
    student.stepping.clear()
    other.say(11)  # the successor is in its step, its buffers filled
    assert student.stepping.wait(WAIT)
    student.freed.set()
    old.thread.join(WAIT)
    assert not old.thread.is_alive()
    student.gate.set()
    bench.wait(lambda: len(other.results) == 2)
    other.say(12)
    bench.wait(lambda: len(other.results) == 3)
    assert other.results == alone(make_bench, type(student), 10, 11, 12)
    assert len(bad.results) == len(mate.results) == 1
    assert bench.engine.health.reason == health
    for heard, memory in zip((bad, mate), memories, strict=False):
        for part, before in zip(heard.stream.memory, memory, strict=True):
            np.testing.assert_array_equal(part, before)


def test_one_look_after_a_pause_of_the_whole_process_gives_nothing_up(bench, student, clock):
    """Stopped and continued, the step has had no chance to end before the first look."""
    heard = ReportedTotals(bench.engine)
    student.gate.clear()
    student.stepping.clear()
    heard.say(1)
    assert student.stepping.wait(WAIT)
    clock.now += 1000
    bench.engine.watch()
    student.gate.set()
    bench.wait(lambda: heard.results)
    bench.wait(lambda: bench.engine._worker.step_started is None)
    bench.engine.watch()
    assert not heard.errors
    assert bench.engine.health.healthy


def test_failed_lane_takes_nothing_more(bench, student, clock):
    bad = stick(bench, student)
    bad.say(20, 21)
    clock.pass_over(bench.engine, 6)
    bad.say(22)
    good = ReportedTotals(bench.engine)
    good.say(30)
    bench.wait(lambda: good.results)
    assert len(bad.results) == 1
    assert not {20, 21, 22} & {first for batch in student.batches for first in batch}


def test_threads_that_stick_are_few_and_those_that_wait_are_told(bench, student, clock):
    """The successor sticks too, and so on: no thread a step for ever."""
    before = threading.active_count()
    for _ in range(MAX_ABANDONED):
        stick(bench, student)
        clock.pass_over(bench.engine, 6)
    assert not bench.engine.alive
    assert threading.active_count() <= before - 1 + MAX_ABANDONED
    late = ReportedTotals(bench.engine)
    late.say(1)
    bench.engine.watch()
    (error,) = late.results
    assert str(error) == "the student failed on this call: the engine has no thread"
    assert "4 threads are stuck already" in bench.engine.health.reason
    # and once they come back, there is a thread again
    stuck = [runner.thread for runner in bench.engine._abandoned]
    student.freed.set()
    for thread in stuck:
        thread.join(WAIT)
    bench.engine.watch()
    good = ReportedTotals(bench.engine)
    good.say(1)
    bench.wait(lambda: good.results)
    assert not good.errors
    assert threading.active_count() <= before


def test_stop_does_not_wait_for_a_stuck_step(make_bench, student):
    bench = make_bench(student, timeout_seconds=0.1)
    stick(bench, student)
    stopping = threading.Thread(target=bench.engine.stop)
    stopping.start()
    stopping.join(WAIT)
    assert not stopping.is_alive()
    student.freed.set()


# --- errors outside the student ---


def test_error_while_a_batch_is_made_up_loses_no_lane(bench, student, make_bench):
    """MemoryError where the next batch is taken."""

    class Full(list):
        def append(self, item):
            if len(self) == 1 and not raised:
                raised.append(item)
                raise MemoryError
            super().append(item)

    raised = []
    first = ReportedTotals(bench.engine)
    student.gate.clear()
    student.stepping.clear()
    first.say(1)
    assert student.stepping.wait(WAIT)
    streams = [ReportedTotals(bench.engine) for _ in range(3)]
    for number, heard in enumerate(streams):
        heard.say(10 + number)
    take = bench.engine._collect_batch

    def taking(runner):
        runner.batch = Full()
        return take(runner)

    bench.engine._collect_batch = taking
    student.gate.set()
    bench.wait(lambda: all(heard.results for heard in streams))
    assert raised
    (error,) = streams[0].results  # had been taken already
    assert isinstance(error, ServerFault)
    assert (error.status, str(error)) == (
        "INTERNAL",
        "the server failed on this call: MemoryError",
    )
    for number, heard in enumerate(streams[1:], start=1):
        assert heard.results == alone(make_bench, type(student), 10 + number)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, MemoryError])
def test_student_that_raises_more_than_an_exception(bench, student, error, make_bench):
    step = student.step

    def raising(samples, valid, state):
        if round(float(samples[0, 0]) * 32768) == 99:
            raise error
        return step(samples, valid, state)

    student.step = raising
    bad = ReportedTotals(bench.engine)
    bad.say(99)
    bench.wait(lambda: bad.results)
    assert isinstance(bad.results[0], CallError)
    good = ReportedTotals(bench.engine)
    good.say(1)
    bench.wait(lambda: good.results)
    assert good.results == alone(make_bench, type(student), 1)


def test_metrics_that_raise_cost_no_call(make_bench, student, make_student):
    def counting(*_):
        raise ZeroDivisionError

    bench = make_bench(student, on_batch=counting)
    heard = ReportedTotals(bench.engine)
    for number in (1, 2, 3):
        heard.say(number)
        bench.wait(lambda number=number: len(heard.results) == number)
    assert heard.results == alone(make_bench, make_student, 1, 2, 3)


def test_delivery_that_raises_is_made_up_for(student, make_bench, make_student):
    """What could not be delivered comes with the next, or with the next look."""
    due, failing = queue.SimpleQueue(), [RuntimeError("Event loop is closed"), MemoryError()]

    def deliver(callback):
        if failing:
            raise failing.pop()
        due.put(callback)

    engine = Engine(student, deliver)
    heard = ReportedTotals(engine)
    heard.say(1)
    while len(failing) == 2:
        threading.Event().wait(0.01)
    heard.say(2)
    while failing:
        threading.Event().wait(0.01)
    engine.watch()
    assert heard.results == alone(make_bench, make_student, 1, 2)
    heard.say(3)
    due.get(timeout=WAIT)()
    assert heard.results == alone(make_bench, make_student, 1, 2, 3)
    engine.stop()


def test_closed_loop_does_not_end_the_thread(student):
    def deliver(_):
        raise RuntimeError("Event loop is closed")

    engine = Engine(student, deliver)
    for number in range(3):
        student.stepping.clear()
        ReportedTotals(engine).say(number)
        assert student.stepping.wait(WAIT)
    assert engine.alive
    engine.stop()


def test_callback_that_raises_costs_its_lane_alone(bench, student, make_bench):
    told = []

    def broken(result):
        told.append(result)
        if not isinstance(result, CallError):
            raise KeyError("update")

    stream = bench.engine.new_stream(broken)
    neighbours = [ReportedTotals(bench.engine) for _ in range(3)]
    neighbours[0].say(1)
    bench.engine.submit(stream, block(2))
    for heard in neighbours[1:]:
        heard.say(1)
    bench.engine.submit(stream, block(3))
    bench.wait(lambda: all(heard.results for heard in neighbours))
    bench.quiet(0.05)
    assert len(told) == 2
    assert str(told[1]) == "the server failed on this call: KeyError"
    wanted = alone(make_bench, type(student), 1)
    assert all(heard.results == wanted for heard in neighbours)


def test_callback_that_cannot_even_be_told(bench):
    def broken(_):
        raise KeyError("update")

    stream, good = bench.engine.new_stream(broken), ReportedTotals(bench.engine)
    bench.engine.submit(stream, block(2))
    good.say(1)
    bench.wait(lambda: good.results)
    assert stream.closed
    assert not good.errors


def test_thread_that_died_all_the_same_is_replaced(bench, student, make_bench):
    """Nothing known kills it; should it happen, calls go on."""
    runner = bench.engine._worker
    with bench.engine._wake:
        bench.engine._worker = None  # it leaves its loop
        bench.engine._ready.push(bench.engine.new_stream(lambda _: None))
        bench.engine._wake.notify()
    runner.thread.join(WAIT)
    bench.engine._worker = runner
    assert not bench.engine.alive
    bench.engine.watch()
    assert bench.engine.alive
    assert bench.engine.health.reason == "the engine's thread is dead"
    good = ReportedTotals(bench.engine)
    good.say(1)
    bench.wait(lambda: good.results)
    assert good.results == alone(make_bench, type(student), 1)


def test_no_memory_for_a_successor_is_tried_again(bench, student, clock, monkeypatch):
    bad = stick(bench, student)
    monkeypatch.setattr(bench.engine, "_new_worker", lambda: (_ for _ in ()).throw(MemoryError()))
    clock.pass_over(bench.engine, 6)
    assert bad.errors
    assert not bench.engine.alive
    monkeypatch.undo()
    bench.engine.watch()
    good = ReportedTotals(bench.engine)
    good.say(1)
    bench.wait(lambda: good.results)
    assert not good.errors
