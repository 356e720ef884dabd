"""One batch: which blocks a failure costs, and how large the next batch may be."""

import subprocess
import sys

import numpy as np
import pytest

from streamer.errors import InferenceFailed, InferenceUnavailable
from streamer.inference.batch import GROW_AFTER, BatchRunner
from tests.streamer.doubles import FakeModel
from tests.streamer.inference.streams import BLOCK, block


def items(*firsts):
    memory = FakeModel().metadata.fresh()
    return [(block(first), memory) for first in firsts]


def assert_same(results, others):
    for (posteriors, memory), (same, same_memory) in zip(results, others, strict=True):
        assert posteriors == same
        for part, same_part in zip(memory, same_memory, strict=True):
            np.testing.assert_array_equal(part, same_part)


def test_out_of_memory_halves_the_batch(fake):
    fake.max_rows = 4
    runner = BatchRunner(fake, 16)
    assert_same(runner.run(items(*range(16))), BatchRunner(FakeModel(), 16).run(items(*range(16))))
    assert [len(batch) for batch in fake.batches] == [16, 8, 4, 4, 8, 4, 4]
    assert runner.limit == 4


def test_limit_grows_again(fake):
    fake.max_rows = 1
    runner = BatchRunner(fake, 3)
    runner.run(items(1, 2, 3))
    assert runner.limit == 1
    fake.max_rows = 1000
    for count in (GROW_AFTER, 2 * GROW_AFTER):
        for _ in range(count // 2):
            runner.run(items(1))  # not a full batch once the limit is 2
        for _ in range(GROW_AFTER):
            runner.run(items(*range(runner.limit)))
    assert runner.limit == 3


def test_no_memory_for_one_block_is_unavailable(fake):
    fake.max_rows = 0
    for result in BatchRunner(fake, 2).run(items(1, 2)):
        assert isinstance(result, InferenceUnavailable)
        assert (result.status, result.retry_after) == ("UNAVAILABLE", 1.0)
        assert str(result) == str(InferenceUnavailable("out of memory"))


@pytest.mark.parametrize("position", range(8))
def test_one_bad_block_in_eight_takes_seven_steps(fake, position):
    """By halving, not by a step for each block."""
    firsts = [fake.RAISES if number == position else number for number in range(8)]
    results = BatchRunner(fake, 8).run(items(*firsts))
    assert isinstance(results.pop(position), InferenceFailed)
    good = items(*(number for number in range(8) if number != position))
    assert_same(results, BatchRunner(FakeModel(), 8).run(good))
    assert len(fake.batches) == 7


def test_block_of_the_wrong_shape_costs_its_row(fake):
    """An error before the model's step is treated like one of the step."""
    bad = (np.full(BLOCK + 1, 7, np.int16), fake.metadata.fresh())
    results = BatchRunner(fake, 4).run([*items(1), bad, *items(2)])
    assert [isinstance(result, InferenceFailed) for result in results] == [False, True, False]


class EvenModel(FakeModel):
    """Needs an even number of rows, as a GPU needs a power of two."""

    def padded_size(self, size):
        return size + size % 2


def test_padding_rows_change_nothing():
    model = EvenModel()
    padded, plain = BatchRunner(model, 5), BatchRunner(FakeModel(), 5)
    for firsts in ((1, 2, 3, 4, 5), (6,), (10, 11), (7, 8, 9)):
        assert_same(padded.run(items(*firsts)), plain.run(items(*firsts)))
    assert [len(batch) for batch in model.batches] == [6, 2, 2, 4]
    assert [batch[-1] for batch in model.batches] == [0, 0, 11, 0], "silence, not an older block"


STARVED = """
import resource
import numpy as np
from streamer.inference.batch import BatchRunner
from streamer.inference.model import OnnxModel
model = OnnxModel(provider="cpu")
item = (np.full(model.metadata.block, 100, np.int16), model.metadata.fresh())
runner = BatchRunner(model, 1024)
runner.run([item])
try:
    pages = int(open("/proc/self/statm").read().split()[0])
    limit = pages * resource.getpagesize() + (100 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, -1))
    results = runner.run([item] * 1024)
finally:
    resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
print(len(results), sum(isinstance(r, tuple) for r in results), 1 <= runner.limit < 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits its address space")
def test_real_runtime_out_of_memory_answers_all():
    done = subprocess.run(
        [sys.executable, "-c", STARVED], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.splitlines()[-1] == "1024 1024 True"
    assert '"inference_failed"' not in done.stdout + done.stderr
