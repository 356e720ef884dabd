"""One batch: who pays for a failure, and how large the next may be."""

import subprocess
import sys

import numpy as np
import pytest

from streamer.errors import InferenceFailed, InferenceUnavailable
from streamer.inference.batch import GROW_AFTER, BatchRunner
from tests.streamer.doubles import FakeModel

BLOCK = 1280


@pytest.fixture
def student(make_student):
    return make_student()


def rows(*firsts):
    memory = FakeModel().metadata.fresh()
    made = []
    for first in firsts:
        block = np.full(BLOCK, 7, np.int16)
        block[0] = first
        made.append((block, memory))
    return made


def posteriors(answers):
    return [answer[0] for answer in answers]


def test_out_of_memory_is_tried_with_fewer_and_costs_nobody(student, make_student):
    student.max_rows = 4
    step = BatchRunner(student, 16)
    answers = step.run(rows(*range(16)))
    wanted = BatchRunner(make_student(), 16).run(rows(*range(16)))
    assert posteriors(answers) == posteriors(wanted)
    for mine, other in zip(answers, wanted, strict=True):
        np.testing.assert_array_equal(mine[1].state, other[1].state)
    assert [len(batch) for batch in student.batches] == [16, 8, 4, 4, 8, 4, 4]
    assert step.limit == 4


def test_limit_set_by_memory_grows_again(student):
    student.max_rows = 1
    step = BatchRunner(student, 3)
    step.run(rows(1, 2, 3))
    assert step.limit == 1
    student.max_rows = 1000
    for count in (GROW_AFTER, 2 * GROW_AFTER):
        for _ in range(count // 2):
            step.run(rows(1))  # not full once the limit is 2: shows nothing
        for _ in range(GROW_AFTER):
            step.run(rows(*range(step.limit)))
    assert step.limit == 3


def test_no_memory_even_for_one_is_unavailable_and_may_be_tried_elsewhere(student):
    student.max_rows = 0
    answers = BatchRunner(student, 2).run(rows(1, 2))
    for answer in answers:
        assert isinstance(answer, InferenceUnavailable)
        assert (answer.status, answer.retry_after) == ("UNAVAILABLE", 1.0)
        assert str(answer) == "the student failed on this call: out of memory"


@pytest.mark.parametrize("place", range(8))
def test_one_bad_row_in_eight_takes_seven_steps(student, make_student, place):
    """Halving: not one step a row."""
    firsts = [student.RAISES if number == place else number for number in range(8)]
    answers = BatchRunner(student, 8).run(rows(*firsts))
    assert [isinstance(answer, InferenceFailed) for answer in answers] == [
        number == place for number in range(8)
    ]
    good = [answer for number, answer in enumerate(answers) if number != place]
    wanted = BatchRunner(make_student(), 8).run(rows(*(n for n in range(8) if n != place)))
    assert posteriors(good) == posteriors(wanted)
    assert len(student.batches) == 7


def test_block_of_the_wrong_shape_costs_its_row(student):
    """Also what goes wrong before the student is asked, while the batch is put together."""
    bad = (np.full(BLOCK + 1, 7, np.int16), student.metadata.fresh())
    answers = BatchRunner(student, 4).run([*rows(1), bad, *rows(2)])
    assert [isinstance(answer, InferenceFailed) for answer in answers] == [False, True, False]


class InTwos(FakeModel):
    """Wants an even number of rows, as a GPU wants a power of two."""

    def padded_size(self, size):
        return size + size % 2


def test_rows_that_are_nobodys_change_nothing(make_student):
    student = InTwos()
    padded, plain = BatchRunner(student, 5), BatchRunner(make_student(), 5)
    for size in (5, 1, 2, 3):
        answers = padded.run(rows(*range(10, 10 + size)))
        wanted = plain.run(rows(*range(10, 10 + size)))
        assert posteriors(answers) == posteriors(wanted)
        for mine, other in zip(answers, wanted, strict=True):
            for part, same in zip(mine[1], other[1], strict=True):
                np.testing.assert_array_equal(part, same)
    assert [len(batch) for batch in student.batches] == [6, 2, 2, 4]
    assert [batch[-1] for batch in student.batches] == [0, 0, 11, 0], "silence, whatever was there"


STARVED = """
import resource
import numpy as np
from streamer.inference.batch import BatchRunner
from streamer.inference.model import OnnxModel
student = OnnxModel(provider="cpu")
meta = student.metadata
row = (np.full(meta.block, 100, np.int16), meta.fresh())
step = BatchRunner(student, 1024)
step.run([row])
try:
    pages = int(open("/proc/self/statm").read().split()[0])
    most = pages * resource.getpagesize() + (100 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (most, -1))
    answers = step.run([row] * 1024)
finally:
    resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
print(len(answers), sum(isinstance(a, tuple) for a in answers), 1 <= step.limit < 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits its address space")
def test_real_runtime_out_of_memory_answers_all_with_smaller_batches():
    done = subprocess.run(
        [sys.executable, "-c", STARVED], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.splitlines()[-1] == "1024 1024 True"
    assert '"inference_failed"' not in done.stdout + done.stderr
