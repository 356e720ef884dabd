"""No library writes files or reports over the network by itself."""

import subprocess
import sys

import pytest

from streamer.inference.onnx_runtime import TELEMETRY_VARIABLE


def run(*arguments):
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=60, check=True
    )


@pytest.mark.parametrize(
    "module", ["streamer.inference.model", "streamer.serve", "streamer.process.local_server"]
)
def test_home_directory_stays_empty(module, tmp_path, monkeypatch):
    monkeypatch.delenv(TELEMETRY_VARIABLE, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if module == "streamer.serve":
        done = run("-m", module, "--listen", "127.0.0.1:0", "--check")
    else:
        done = run("-c", f"import {module}")
    assert list(tmp_path.rglob("*")) == []
    assert "elemetry" not in done.stdout + done.stderr


def test_operators_own_setting_wins(monkeypatch):
    monkeypatch.setenv(TELEMETRY_VARIABLE, "0")
    name = repr(TELEMETRY_VARIABLE)
    done = run("-c", f"import os, streamer.inference.onnx_runtime; print(os.environ[{name}])")
    assert done.stdout == "0\n"
