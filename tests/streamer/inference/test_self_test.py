import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from streamer.errors import ModelFileError
from streamer.inference.self_test import self_test


class Broken:
    """A student with a fault; one block a second, two classes a task."""

    def __init__(self, fault):
        self.fault = fault
        self.metadata = SimpleNamespace(model_id="broken-1", block=8000, fresh=lambda _: None)

    def padded_size(self, size):
        return size

    def step(self, samples, valid, memory):
        assert len(valid) == len(samples)
        rows = len(samples)
        fine = np.full((rows, 2), 0.5, np.float32)
        wrong = fine.copy()
        if self.fault == "nan":
            wrong[:] = np.nan
        elif self.fault == "sum":
            wrong[:] = 0.7
        elif self.fault == "batch":
            wrong[0] = (1 / rows, 1 - 1 / rows)
        elif self.fault == "raises":
            raise RuntimeError("no such kernel")
        return [fine, wrong, fine], memory


def test_the_shipped_student_passes(student):
    self_test(student)
    self_test(Broken("none"))


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("nan", "age_group is"),
        ("sum", "age_group is"),
        ("batch", "depends on the batch"),
        ("raises", "no such"),
    ],
)
def test_a_fault_is_named(fault, said):
    with pytest.raises(ModelFileError, match=f"broken-1: self-test: .*{said}"):
        self_test(Broken(fault))


def check(*arguments):
    command = [sys.executable, "-m", "streamer.serve", "--listen", "127.0.0.1:0", "--check"]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)


def test_check_says_whether_it_could_serve(tmp_path):
    done = check()
    assert done.returncode == 0
    assert [json.loads(line)["event"] for line in done.stderr.splitlines()][-1] == "checked"
    bad = check("--model", str(tmp_path / "absent.onnx"))
    assert bad.returncode == 2
    assert "absent.onnx" in bad.stderr
