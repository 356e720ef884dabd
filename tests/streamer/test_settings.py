import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError
from pydantic_settings import CliApp

from streamer.settings import ServerSettings
from streamer.student import DEFAULT_MODEL

FLAGS = {
    "listen": ("0.0.0.0:7000", "0.0.0.0:7000"),
    "model": ("some/file.onnx", Path("some/file.onnx")),
    "provider": ("cpu", "cpu"),
    "threads": ("3", 3),
    "max_batch": ("8", 8),
    "max_calls": ("5", 5),
    "max_chunk_seconds": ("2.5", 2.5),
    "idle_timeout": ("7", 7.0),
    "update_seconds": ("0.25", 0.25),
    "drain_seconds": ("0", 0.0),
    "log_level": ("warning", "warning"),
}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in FLAGS:
        monkeypatch.delenv(f"VOICECOHORT_{name.upper()}", raising=False)


def read(*arguments):
    return CliApp.run(ServerSettings, cli_args=list(arguments))


def test_every_setting_is_covered_here():
    assert set(FLAGS) == set(ServerSettings.model_fields)


def test_defaults():
    assert read().model_dump() == {
        "listen": "127.0.0.1:50051",
        "model": DEFAULT_MODEL,
        "provider": "auto",
        "threads": 1,
        "max_batch": 64,
        "max_calls": 1000,
        "max_chunk_seconds": 10.0,
        "idle_timeout": 300.0,
        "update_seconds": 0.5,
        "drain_seconds": 30.0,
        "log_level": "info",
    }


@pytest.mark.parametrize("name", FLAGS)
def test_setting_by_flag(name):
    text, value = FLAGS[name]
    changed = read(f"--{name.replace('_', '-')}", text).model_dump()
    assert changed == read().model_dump() | {name: value}


@pytest.mark.parametrize("name", FLAGS)
def test_setting_by_environment(name, monkeypatch):
    text, value = FLAGS[name]
    monkeypatch.setenv(f"VOICECOHORT_{name.upper()}", text)
    changed = read().model_dump()
    monkeypatch.delenv(f"VOICECOHORT_{name.upper()}")
    assert changed == read().model_dump() | {name: value}


def test_flag_wins_over_environment(monkeypatch):
    monkeypatch.setenv("VOICECOHORT_MAX_CALLS", "7")
    monkeypatch.setenv("VOICECOHORT_THREADS", "2")
    settings = read("--max-calls", "9")
    assert (settings.max_calls, settings.threads) == (9, 2)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("listen", "50051"),
        ("listen", ":50051"),
        ("listen", "127.0.0.1:99999"),
        ("listen", "127.0.0.1:-1"),
        ("listen", "127.0.0.1:http"),
        ("provider", "tpu"),
        ("threads", "0"),
        ("max_batch", "0"),
        ("max_batch", "1025"),
        ("max_calls", "0"),
        ("max_calls", "many"),
        ("max_chunk_seconds", "0"),
        ("max_chunk_seconds", "61"),
        ("idle_timeout", "0"),
        ("idle_timeout", "nan"),
        ("update_seconds", "0.05"),
        ("update_seconds", "61"),
        ("drain_seconds", "-1"),
        ("log_level", "loud"),
    ],
)
def test_bad_setting_is_refused_by_name(name, value, monkeypatch):
    monkeypatch.setenv(f"VOICECOHORT_{name.upper()}", value)
    with pytest.raises(ValidationError) as caught:
        read()
    (problem,) = caught.value.errors()
    assert problem["loc"] == (name,)


def test_help_explains_every_flag():
    done = subprocess.run(
        [sys.executable, "-m", "streamer.serve", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    text = " ".join(done.stdout.split())
    for name, field in ServerSettings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in text
        assert field.description
        assert " ".join(field.description.split()) in text
    assert "VOICECOHORT_MAX_CALLS" in text
