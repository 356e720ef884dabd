import queue
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.errors import InferenceFailed
from streamer.inference.engine import Engine

BLOCK = 1280
WAIT = 20.0


def block(first, length=BLOCK):
    """A block that begins with a number to be known by."""
    samples = np.full(length, 7, np.int16)
    samples[0] = first
    return samples


class ReportedTotals:
    """What one stream was told."""

    def __init__(self, bench):
        self.results = []
        self.stream = bench.engine.new_stream(self.results.append)

    @property
    def errors(self):
        return [r for r in self.results if isinstance(r, InferenceFailed)]


@pytest.fixture
def student(make_student):
    return make_student()


@pytest.fixture
def alone(make_bench, student):
    """An engine of the test's own, whose student's gate it may close."""
    return make_bench(student)


def blocked(bench, student, heard, first):
    """Submit one block and come back while its step is running."""
    student.gate.clear()
    student.stepping.clear()
    bench.engine.submit(heard.stream, block(first))
    assert student.stepping.wait(WAIT)


def test_each_block_is_answered_in_order(bench, make_student):
    reference = make_student()
    heard = ReportedTotals(bench)
    memory = reference.metadata.fresh(1)
    wanted = []
    for first in range(1, 9):
        samples = block(first)
        bench.engine.submit(heard.stream, samples)
        posteriors, memory = reference.step(
            (samples / np.float32(32768))[None].astype(np.float32), np.array([BLOCK]), memory
        )
        wanted.append(tuple(p[0].tolist() for p in posteriors))
    bench.wait(lambda: len(heard.results) == 8)
    assert heard.results == wanted
    assert len(set(map(str, wanted))) == 8


def test_short_block_is_padded_with_silence_and_told_as_such(bench, make_student):
    """The fake student checks the padding; a long block before leaves none of itself behind."""
    reference = make_student()
    long, short = ReportedTotals(bench), ReportedTotals(bench)
    bench.engine.submit(long.stream, np.full(BLOCK, 999, np.int16))
    bench.wait(lambda: long.results)
    bench.engine.submit(short.stream, block(3, 320))
    bench.wait(lambda: short.results)
    padded = np.zeros((1, BLOCK), np.float32)
    padded[0, :320] = block(3, 320) / np.float32(32768)
    posteriors, _ = reference.step(padded, np.array([320]), reference.metadata.fresh(1))
    assert short.results == [tuple(p[0].tolist() for p in posteriors)]


def test_samples_reach_the_student_in_its_range(make_bench, make_student):
    student = make_student()
    seen = []
    step = student.step

    def watch(samples, valid, memory):
        seen.append((samples.min(), samples.max(), samples.dtype, valid.dtype, memory.state.dtype))
        return step(samples, valid, memory)

    student.step = watch
    bench = make_bench(student)
    heard = ReportedTotals(bench)
    loud = np.zeros(BLOCK, np.int16)
    loud[:2] = -32768, 32767
    bench.engine.submit(heard.stream, loud)
    bench.wait(lambda: heard.results)
    assert seen == [(-1.0, np.float32(32767 / 32768), np.float32, np.int64, np.float32)]


def test_a_batch_takes_every_waiting_lane_once(alone, student):
    first = ReportedTotals(alone)
    blocked(alone, student, first, 100)
    streams = [ReportedTotals(alone) for _ in range(5)]
    for number, heard in enumerate(streams, start=1):
        for _ in range(3):
            alone.engine.submit(heard.stream, block(number))
    student.gate.set()
    alone.wait(lambda: all(len(heard.results) == 3 for heard in streams))
    assert student.batches == [[100], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5]]


def test_a_batch_is_never_larger_than_allowed(make_bench, student):
    bench = make_bench(student, max_batch=4)
    first = ReportedTotals(bench)
    blocked(bench, student, first, 100)
    streams = [ReportedTotals(bench) for _ in range(10)]
    for number, heard in enumerate(streams):
        bench.engine.submit(heard.stream, block(number))
    student.gate.set()
    bench.wait(lambda: all(heard.results for heard in streams))
    assert student.batches == [[100], [0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_hurried_blocks_wait_for_no_others(make_bench, student):
    """Whether the thread waits for others already or is still to begin."""
    bench = make_bench(student, max_batch_delay_seconds=2 * WAIT)
    streams = [ReportedTotals(bench) for _ in range(2)]
    for began in (False, True):
        for number, heard in enumerate(streams, start=1):
            bench.engine.submit(heard.stream, block(number))
        if began:
            bench.quiet(0.1)
            assert len(student.batches) == 1, "nobody has hurried it"
        bench.engine.flush()
        bench.wait(lambda: all(len(heard.results) == 1 + began for heard in streams))  # noqa: B023
    assert student.batches == [[1, 2], [1, 2]]


@pytest.mark.parametrize("max_batch", [1, 2])
def test_flooding_lane_delays_another_by_one_batch_at_most(make_bench, student, max_batch):
    bench = make_bench(student, max_batch=max_batch)
    flood, live = ReportedTotals(bench), ReportedTotals(bench)
    blocked(bench, student, flood, 1)
    for _ in range(50):
        bench.engine.submit(flood.stream, block(1))
    bench.engine.submit(live.stream, block(2))
    student.gate.set()
    bench.wait(lambda: len(flood.results) == 51 and live.results)
    # the step that was running, then at the latest the one behind it
    assert 2 in student.batches[1]
    assert all(batch.count(1) <= 1 for batch in student.batches)


def test_two_floods_and_a_live_lane_take_turns(make_bench, student):
    """With one place in a batch the longest waiting comes next: nobody is served twice before."""
    bench = make_bench(student, max_batch=1)
    streams = [ReportedTotals(bench) for _ in range(3)]
    blocked(bench, student, streams[0], 0)
    for number, heard in enumerate(streams):
        for _ in range(5):
            bench.engine.submit(heard.stream, block(number))
    student.gate.set()
    bench.wait(lambda: sum(len(heard.results) for heard in streams) == 16)
    order = [batch[0] for batch in student.batches]
    assert order[:13] == [0, 1, 2] * 4 + [0] or order[:13] == [0] + [1, 2, 0] * 4


@given(
    submissions=st.lists(st.integers(0, 5), min_size=1, max_size=60),
    max_batch=st.integers(1, 4),
)
def test_any_load_is_answered_as_if_alone(make_student, submissions, max_batch):
    student, due = make_student(), queue.SimpleQueue()
    engine = Engine(student, due.put, max_batch=max_batch)
    results = {stream: [] for stream in range(6)}
    streams = {stream: engine.new_stream(results[stream].append) for stream in range(6)}
    try:
        for number, stream in enumerate(submissions):
            engine.submit(streams[stream], block(stream * 1000 + number))
        while sum(map(len, results.values())) < len(submissions):
            due.get(timeout=WAIT)()
    finally:
        engine.stop()
    for batch in student.batches:
        assert 1 <= len(batch) <= max_batch
        of_lanes = [first // 1000 for first in batch]
        assert len(set(of_lanes)) == len(of_lanes), "two blocks of one stream in a batch"
    reference = make_student()
    for stream in range(6):
        memory = reference.metadata.fresh(1)
        wanted = []
        for number, owner in enumerate(submissions):
            if owner == stream:
                samples = (block(stream * 1000 + number) / np.float32(32768)).astype(np.float32)
                posteriors, memory = reference.step(samples[None], np.array([BLOCK]), memory)
                wanted.append(tuple(p[0].tolist() for p in posteriors))
        assert results[stream] == wanted


# --- failure ---


@pytest.mark.parametrize(
    ("marker", "reason"),
    [("RAISES", "ArithmeticError"), ("NAN", "not finite"), ("INF", "not finite")],
)
@pytest.mark.parametrize("place", [0, 2, 4])
def test_failure_costs_only_the_lane_that_caused_it(alone, student, marker, reason, place):
    first = ReportedTotals(alone)
    blocked(alone, student, first, 100)
    streams = [ReportedTotals(alone) for _ in range(5)]
    for number, heard in enumerate(streams):
        bad = number == place
        alone.engine.submit(heard.stream, block(getattr(student, marker) if bad else number))
    student.gate.set()
    alone.wait(lambda: all(heard.results for heard in streams))
    (failure,) = streams[place].results
    assert isinstance(failure, InferenceFailed)
    assert failure.status == "INTERNAL"
    assert reason in str(failure)
    good = [heard for number, heard in enumerate(streams) if number != place]
    assert not any(heard.errors for heard in good)
    # the others go on as if nothing had been: their states are those of an undisturbed run
    for number, heard in enumerate(streams):
        alone.engine.submit(heard.stream, block(10 + number))
    alone.wait(lambda: all(len(heard.results) == 2 for heard in good))
    undisturbed = [ReportedTotals(alone) for _ in range(5)]
    for number, heard in enumerate(undisturbed):
        alone.engine.submit(heard.stream, block(number))
        alone.engine.submit(heard.stream, block(10 + number))
    alone.wait(lambda: all(len(heard.results) == 2 for heard in undisturbed))
    for number, heard in enumerate(streams):
        if number != place:
            assert heard.results == undisturbed[number].results
    assert len(streams[place].results) == 1, "told again after the failure"


def test_failed_lane_hears_nothing_more(alone, student):
    heard = ReportedTotals(alone)
    blocked(alone, student, heard, student.RAISES)
    for number in range(5):
        alone.engine.submit(heard.stream, block(number))
    student.gate.set()
    alone.wait(lambda: heard.errors)
    alone.quiet()
    assert len(heard.results) == len(heard.errors) == 1


def test_engine_survives_failures_of_whole_batches(alone, student):
    for _ in range(3):
        streams = [ReportedTotals(alone) for _ in range(3)]
        for heard in streams:
            alone.engine.submit(heard.stream, block(student.RAISES))
        alone.wait(lambda streams=streams: all(heard.errors for heard in streams))
    good = ReportedTotals(alone)
    alone.engine.submit(good.stream, block(1))
    alone.wait(lambda: good.results)
    assert not good.errors


# --- endings ---


def test_closed_lane_hears_nothing(alone, student):
    """Neither of the step in flight nor of blocks that waited, and those cost no step."""
    running, waiting, other = ReportedTotals(alone), ReportedTotals(alone), ReportedTotals(alone)
    blocked(alone, student, running, 1)
    alone.engine.submit(running.stream, block(2))
    alone.engine.submit(waiting.stream, block(3))
    alone.engine.submit(other.stream, block(4))
    alone.engine.close_stream(running.stream)
    alone.engine.close_stream(waiting.stream)
    student.gate.set()
    alone.wait(lambda: other.results)
    alone.quiet()
    assert running.results == waiting.results == []
    assert student.batches == [[1], [4]]


def test_lane_closed_between_step_and_delivery_hears_nothing(alone):
    heard = ReportedTotals(alone)
    alone.engine.submit(heard.stream, block(1))
    while alone._due.empty():  # the step is done, its result not yet handed out
        threading.Event().wait(0.01)
    alone.engine.close_stream(heard.stream)
    alone.quiet()
    assert heard.results == []


def test_submitting_to_a_closed_lane_costs_nothing(alone, student):
    heard, other = ReportedTotals(alone), ReportedTotals(alone)
    alone.engine.close_stream(heard.stream)
    alone.engine.submit(heard.stream, block(1))
    alone.engine.submit(other.stream, block(2))
    alone.wait(lambda: other.results)
    alone.quiet(0.05)
    assert (heard.results, student.batches) == ([], [[2]])


def test_stop_ends_the_thread_after_the_running_step(make_student):
    student = make_student()
    due = queue.SimpleQueue()
    engine = Engine(student, due.put)
    results = []
    stream = engine.new_stream(results.append)
    student.gate.clear()
    for number in range(3):
        engine.submit(stream, block(number))
    assert student.stepping.wait(WAIT)
    stopping = threading.Thread(target=engine.stop)
    stopping.start()
    student.gate.set()
    stopping.join(WAIT)
    assert not stopping.is_alive()
    assert not engine.alive
    assert student.batches == [[0]]


def test_stop_when_idle(make_student):
    engine = Engine(make_student(), lambda callback: callback())
    engine.stop()
    assert not engine.alive
