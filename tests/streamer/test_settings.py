import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError
from pydantic_settings import CliApp

from streamer.settings import ServerSettings, unknown_variables

FLAGS = {
    "listen": ("127.0.0.1:7000", "127.0.0.1:7000"),
    "insecure": ("true", True),
    "metrics_listen": ("0.0.0.0:9100", "0.0.0.0:9100"),
    "otlp_endpoint": ("collector:4317", "collector:4317"),
    "otlp_insecure": ("true", True),
    "otlp_sample_ratio": ("0.1", 0.1),
    "health_listen": ("0.0.0.0:50052", "0.0.0.0:50052"),
    "model": ("some/file.onnx", Path("some/file.onnx")),
    "provider": ("cpu", "cpu"),
    "threads": ("3", 3),
    "workers": ("4", 4),
    "max_batch": ("8", 8),
    "tokens": ("tokens.toml", Path("tokens.toml")),
    "checkpoint_keys": ("keys.toml", Path("keys.toml")),
    "checkpoint_max_age": ("60", 60.0),
    "inference_timeout": ("2", 2.0),
    "unhealthy_exit_seconds": ("0", 0.0),
    "worker_heartbeat_timeout": ("3", 3.0),
    "max_calls": ("5", 5),
    "max_calls_per_identity": ("3", 3),
    "max_chunk_seconds": ("2.5", 2.5),
    "max_call_seconds": ("60", 60.0),
    "max_lag_seconds": ("1.5", 1.5),
    "config_timeout": ("2", 2.0),
    "idle_timeout": ("7", 7.0),
    "update_seconds": ("0.25", 0.25),
    "drain_seconds": ("0", 0.0),
    "check": ("true", True),
    "log_level": ("warning", "warning"),
}
TLS = {"tls_certificate": "server.pem", "tls_key": "server.key", "tls_client_ca": "ca.pem"}
"""They go together only."""


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in FLAGS | TLS:
        monkeypatch.delenv(f"VOICECOHORT_{name.upper()}", raising=False)


def read(*arguments):
    return CliApp.run(ServerSettings, cli_args=list(arguments))


def test_every_setting_is_covered_here():
    assert set(FLAGS | TLS) == set(ServerSettings.model_fields)


def test_defaults():
    assert read().model_dump() == {
        "listen": "127.0.0.1:50051",
        "tls_certificate": None,
        "tls_key": None,
        "tls_client_ca": None,
        "insecure": False,
        "metrics_listen": "",
        "otlp_endpoint": "",
        "otlp_insecure": False,
        "otlp_sample_ratio": 1.0,
        "health_listen": "",
        "model": None,
        "provider": "auto",
        "threads": 1,
        "workers": 1,
        "max_batch": 32,
        "tokens": None,
        "checkpoint_keys": None,
        "checkpoint_max_age": 300.0,
        "inference_timeout": 5.0,
        "unhealthy_exit_seconds": 60.0,
        "worker_heartbeat_timeout": 30.0,
        "max_calls": 1000,
        "max_calls_per_identity": None,
        "max_chunk_seconds": 10.0,
        "max_call_seconds": 14_400.0,
        "max_lag_seconds": 10.0,
        "config_timeout": 10.0,
        "idle_timeout": 300.0,
        "update_seconds": 0.5,
        "drain_seconds": 30.0,
        "check": False,
        "log_level": "info",
    }


@pytest.mark.parametrize("name", FLAGS)
def test_setting_by_flag(name):
    text, value = FLAGS[name]
    flag = f"--{name.replace('_', '-')}"
    changed = read(*([flag] if value is True else [flag, text])).model_dump()
    assert changed == read().model_dump() | {name: value}


@pytest.mark.parametrize("name", FLAGS)
def test_setting_by_environment(name, monkeypatch):
    text, value = FLAGS[name]
    monkeypatch.setenv(f"VOICECOHORT_{name.upper()}", text)
    changed = read().model_dump()
    monkeypatch.delenv(f"VOICECOHORT_{name.upper()}")
    assert changed == read().model_dump() | {name: value}


def test_tls_by_flags_and_by_environment(monkeypatch):
    flags = [word for name, file in TLS.items() for word in (f"--{name.replace('_', '-')}", file)]
    by_flags = read("--listen", "0.0.0.0:7000", *flags)
    for name, file in {**TLS, "listen": "0.0.0.0:7000"}.items():
        monkeypatch.setenv(f"VOICECOHORT_{name.upper()}", file)
    assert read() == by_flags
    assert by_flags.tls_client_ca == Path("ca.pem")


@pytest.mark.parametrize("listen", ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1"])
def test_loopback_needs_no_tls(listen):
    assert read("--listen", listen).listen == listen


@pytest.mark.parametrize("listen", ["0.0.0.0:1", "[::]:1", "192.0.2.1:1", "example.org:1"])
def test_plaintext_beyond_loopback_needs_insecure(listen):
    with pytest.raises(ValidationError, match="is not loopback"):
        read("--listen", listen)
    assert read("--listen", listen, "--insecure").insecure


@pytest.mark.parametrize("name", ["metrics_listen", "health_listen"])
def test_every_worker_needs_ports(name):
    flags = [f"--{name.replace('_', '-')}", "127.0.0.1:65533", "--workers"]
    assert read(*flags, "3").workers == 3
    with pytest.raises(ValidationError, match=rf"{name} .*:65533 leaves worker 3 no port"):
        read(*flags, "4")
    assert read("--workers", "1024").workers == 1024


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
        ("workers", "0"),
        ("workers", "1025"),
        ("max_batch", "0"),
        ("max_batch", "1025"),
        ("max_calls", "0"),
        ("max_calls", "many"),
        ("max_calls_per_identity", "0"),
        ("max_call_seconds", "0"),
        ("max_lag_seconds", "0"),
        ("config_timeout", "0"),
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


def test_kubernetes_variables_are_ignored():
    """A Service named voicecohort or voicecohort-replicas sets them in every container."""
    names = [
        "VOICECOHORT_SERVICE_HOST",
        "VOICECOHORT_SERVICE_PORT",
        "VOICECOHORT_SERVICE_PORT_GRPC",
        "VOICECOHORT_PORT",
        "VOICECOHORT_PORT_50051_TCP",
        "VOICECOHORT_PORT_50051_TCP_ADDR",
        "VOICECOHORT_REPLICAS_SERVICE_HOST",
        "VOICECOHORT_REPLICAS_PORT_50051_TCP_PROTO",
    ]
    assert unknown_variables([*names, "VOICECOHORT_TOKEN", "VOICECOHORT_MAX_CALLS", "PATH"]) == []
    assert len(unknown_variables(["VOICECOHORT_PORTS", "voicecohort_max_cals"])) == 2
