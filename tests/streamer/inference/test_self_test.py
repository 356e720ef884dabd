import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from streamer.errors import ModelFileError
from streamer.inference.self_test import self_test


class BrokenModel:
    """A model with a fault; blocks of a second, two classes per task."""

    def __init__(self, fault):
        self.fault = fault
        self.metadata = SimpleNamespace(model_id="broken-1", block=8000, fresh=lambda _: None)

    def padded_size(self, size):
        return size

    def step(self, samples, valid, memory):
        assert len(valid) == len(samples)
        rows = len(samples)
        good = np.full((rows, 2), 0.5, np.float32)
        bad = good.copy()
        if self.fault == "nan":
            bad[:] = np.nan
        elif self.fault == "sum":
            bad[:] = 0.7
        elif self.fault == "batch":
            bad[0] = (1 / rows, 1 - 1 / rows)
        elif self.fault == "raises":
            raise RuntimeError("no such kernel")
        return [good, bad, good], memory


def test_good_models_pass(student):
    self_test(student)
    self_test(BrokenModel("none"))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("nan", "age_group is"),
        ("sum", "age_group is"),
        ("batch", "depends on the batch"),
        ("raises", "no such"),
    ],
)
def test_error_names_the_fault(fault, message):
    with pytest.raises(ModelFileError, match=f"broken-1: self-test: .*{message}"):
        self_test(BrokenModel(fault))


def test_check_flag_reports_whether_it_could_serve(tmp_path):
    def check(*flags):
        command = [sys.executable, "-m", "streamer.serve", "--listen", "127.0.0.1:0", "--check"]
        return subprocess.run([*command, *flags], capture_output=True, text=True, check=False)

    done = check()
    assert done.returncode == 0
    assert [json.loads(line)["event"] for line in done.stderr.splitlines()][-1] == "checked"
    bad = check("--model", str(tmp_path / "absent.onnx"))
    assert bad.returncode == 2
    assert "absent.onnx" in bad.stderr
