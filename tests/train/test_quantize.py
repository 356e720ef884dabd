"""The command that writes a student in 8 bits."""

import pytest

from streamer.inference.model import CPU_MODEL, DEFAULT_MODEL, OnnxModel
from train.quantize import Quantize


def test_writes_a_student_that_can_be_served(prepared, tmp_path):
    out = tmp_path / "small.onnx"
    command = Quantize(student=DEFAULT_MODEL, data=prepared, out=out, calls=3, channel="clean")
    assert command.run() == out
    exact, small = (OnnxModel(DEFAULT_MODEL, provider="cpu"), OnnxModel(out, provider="cpu"))
    assert small.metadata.model_id != exact.metadata.model_id
    made_by = small.metadata.provenance["quantised"]
    assert made_by["from"] == exact.metadata.model_id
    assert made_by["settings"]["calls"] == 3
    assert small.metadata.calibration == exact.metadata.calibration


def test_refuses_a_student_that_is_quantised_already(prepared, tmp_path):
    command = Quantize(student=CPU_MODEL, data=prepared, out=tmp_path / "again.onnx")
    with pytest.raises(ValueError, match="quantised already"):
        command.run()
