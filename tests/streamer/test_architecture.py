"""What the server may not load: it must start where nothing of training is installed."""

import json
import subprocess
import sys

import pytest

TRAINING = ["torch", "torchaudio", "onnx", "onnxscript", "scipy", "sklearn", "model", "train"]
LIST = "import json, sys; {}; print(json.dumps(sorted(m.split('.')[0] for m in sys.modules)))"


def loaded(statement):
    """Top-level modules after a statement in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", LIST.format(statement)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("module", ["streamer.serve", "streamer.client", "streamer.client.cli"])
def test_nothing_of_training_is_loaded(module):
    modules = loaded(f"import {module}")
    assert "streamer" in modules
    assert modules.isdisjoint(TRAINING), modules & set(TRAINING)


def test_client_needs_no_server_and_no_terminal():
    modules = loaded("import streamer.client")
    assert "grpc" in modules
    assert modules.isdisjoint({"onnxruntime", "webrtcvad", "uvloop", "rich", "soundfile"})


def test_signal_path_needs_no_grpc():
    modules = loaded("import streamer.session.session, streamer.inference.model")
    assert "onnxruntime" in modules
    assert modules.isdisjoint({"grpc", "google"})
