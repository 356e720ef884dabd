"""No library writes or reports anything on its own account."""

import subprocess
import sys

import pytest

from streamer.inference.onnx_runtime import TELEMETRY_VARIABLE


@pytest.mark.parametrize(
    "module", ["streamer.inference.model", "streamer.serve", "streamer.process.local_server"]
)
def test_nothing_is_left_in_the_home_directory(module, tmp_path, monkeypatch):
    monkeypatch.delenv(TELEMETRY_VARIABLE, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    words = [sys.executable, "-c", f"import {module}"]
    if module == "streamer.serve":
        words = [sys.executable, "-m", module, "--listen", "127.0.0.1:0", "--check"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    assert list(tmp_path.rglob("*")) == []
    assert "elemetry" not in done.stdout + done.stderr


def test_an_operator_may_decide_otherwise(monkeypatch):
    monkeypatch.setenv(TELEMETRY_VARIABLE, "0")
    code = f"import os, streamer.inference.onnx_runtime; print(os.environ[{TELEMETRY_VARIABLE!r}])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "0\n"
