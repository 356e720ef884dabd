"""Settings of the server; each is a flag and an environment variable."""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

LAST_PORT = 65535
PREFIX = "VOICECOHORT_"
CLIENT_VARIABLES = {"VOICECOHORT_TOKEN"}
_SERVICE_VARIABLE = re.compile(
    r"VOICECOHORT_(\w+_)?(SERVICE_(HOST|PORT)(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)"
)
"""Variables that Kubernetes sets for a Service whose name starts with ``voicecohort``."""


def _address(value: str) -> str:
    """Check HOST:PORT; gRPC would bind port 34463 for 99999."""
    host, _, port = value.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > LAST_PORT:
        raise ValueError("must be HOST:PORT with a port of 0 to 65535")
    return value


def _loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _optional_address(value: str) -> str:
    return _address(value) if value else ""


class ServerSettings(BaseSettings):
    """Serve running gender and age-group predictions for live telephone calls over gRPC.

    Every flag is also an environment variable: --max-calls is VOICECOHORT_MAX_CALLS. Flags win.
    The server logs JSON lines to standard error; the line "serving" names the bound address.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        cli_prog_name="python -m streamer.serve",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_parse_args=False,
        use_attribute_docstrings=True,
    )

    listen: Annotated[str, AfterValidator(_address)] = "127.0.0.1:50051"
    """HOST:PORT to bind; port 0 takes a free one"""
    tls_certificate: Path | None = None
    """PEM file of the server's certificate, intermediate ones after it; a replaced file applies to
    the next connection"""
    tls_key: Path | None = None
    """PEM file of its private key"""
    tls_client_ca: Path | None = None
    """PEM file of the authority of accepted client certificates; needs a certificate"""
    insecure: bool = False
    """serve plaintext beyond loopback, including tokens: for a trusted network, or behind a proxy
    that terminates TLS"""
    tokens: Path | None = None
    """TOML file of accepted tokens, as hashes (make one with: python -m streamer.security token); a
    replaced file applies to the next call. Without it, any client that can connect may call"""
    checkpoint_keys: Path | None = None
    """TOML file of the keys for checkpoints, the same on every server that may resume calls (make
    one with: python -m streamer.security key); the first key seals, every key opens, and a changed
    file is reloaded. Without it, calls cannot have checkpoints"""
    checkpoint_max_age: float = Field(300.0, gt=0, le=86_400)
    """seconds for which a checkpoint is valid"""
    metrics_listen: Annotated[str, AfterValidator(_optional_address)] = ""
    """HOST:PORT for Prometheus to scrape, GET /metrics; empty serves none. It has no
    access control. Worker k, from 0, uses port + k; port 0 takes a free one for each"""
    worker_heartbeat_timeout: float = Field(30.0, ge=0)
    """seconds without a heartbeat after which a worker is killed and replaced; 0 disables it"""
    otlp_endpoint: Annotated[str, AfterValidator(_optional_address)] = ""
    """HOST:PORT of an OpenTelemetry collector (OTLP over gRPC) that receives a span of every call;
    empty sends none. Needs the extra "tracing"; the collector's authority and headers are taken
    from OTEL_EXPORTER_OTLP_CERTIFICATE and OTEL_EXPORTER_OTLP_HEADERS"""
    otlp_insecure: bool = False
    """send spans in plaintext instead of TLS"""
    otlp_sample_ratio: float = Field(1.0, ge=0, le=1)
    """share of calls that get a span; a caller's traceparent takes precedence"""
    health_listen: Annotated[str, AfterValidator(_optional_address)] = ""
    """HOST:PORT for gRPC health checks only, in plaintext even if calls need TLS: for probes
    without TLS, such as those of Kubernetes; empty serves none. Worker k, from 0, uses port + k;
    port 0 takes a free one for each"""
    model: Path | None = None
    """ONNX file of the model, written by train/; default is the shipped one. SIGHUP reloads the
    file: new calls use the new model, running calls keep theirs"""
    provider: Literal["auto", "cpu", "cuda"] = "auto"
    """where the model runs; auto uses a GPU if there is one"""
    threads: int = Field(1, ge=1)
    """CPU threads of one model step; 1 costs least per call"""
    workers: int = Field(1, ge=1, le=1024)
    """server processes that share the port, one per core; one that dies is replaced. A connection
    stays with the worker that accepted it: open several"""
    max_batch: int = Field(32, ge=1, le=1024)
    """maximum number of calls in one model step; 32 states fill a megabyte of cache, more cost
    more per call"""
    max_calls: int = Field(1000, ge=1)
    """concurrent calls, for each worker; more are refused with RESOURCE_EXHAUSTED and a retry
    delay"""
    max_calls_per_identity: int | None = Field(None, ge=1)
    """concurrent calls of one caller, for each worker; a caller is identified by its token, else
    its certificate, else its address; max_calls of a token takes precedence. Default is no limit"""
    max_chunk_seconds: float = Field(10.0, gt=0, le=60)
    """longest audio message"""
    max_call_seconds: float = Field(14_400.0, gt=0)
    """seconds after which a call gets its final predictions and ends with RESOURCE_EXHAUSTED"""
    max_lag_seconds: float = Field(10.0, gt=0)
    """seconds that audio of a live call may wait for inference; then the call ends with
    RESOURCE_EXHAUSTED and a retry delay. Files streamed faster than speech may wait longer"""
    config_timeout: float = Field(10.0, gt=0)
    """seconds from the opening of a stream to its config; then it ends with DEADLINE_EXCEEDED"""
    idle_timeout: float = Field(300.0, gt=0)
    """seconds without any message after which a call ends with DEADLINE_EXCEEDED"""
    update_seconds: float = Field(0.5, ge=0.1, le=60)
    """audio between two predictions of a channel, unless the call requests another interval"""
    inference_timeout: float = Field(5.0, gt=0)
    """seconds after which a model step is aborted: its calls end with UNAVAILABLE, other calls go
    on"""
    unhealthy_exit_seconds: float = Field(60.0, ge=0)
    """seconds of failed inference after which a server exits with code 3, for a restart by its
    supervisor: the parent of --workers, systemd or Kubernetes; 0 disables it"""
    drain_seconds: float = Field(30.0, ge=0)
    """seconds that running calls may go on after SIGTERM or SIGINT"""
    check: bool = False
    """check settings, certificates, address and model, stream a synthetic call through the model,
    and exit: 0 if the server could serve, 2 with one line if not"""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """lowest level that is logged"""

    @property
    def in_clear(self) -> bool:
        """Whether traffic can be read on the network: plaintext beyond loopback."""
        return self.tls_certificate is None and not _loopback(self.listen)

    @model_validator(mode="after")
    def _check_tls(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key belong together: give both or neither")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("tls_client_ca needs tls_certificate and tls_key")
        if self.in_clear and not self.insecure:
            raise ValueError(
                f"listen {self.listen} is not loopback: give tls_certificate and tls_key, or "
                "insecure on a network that you trust"
                + (", where tokens travel in clear" if self.tokens else "")
            )
        return self

    @model_validator(mode="after")
    def _check_worker_ports(self) -> Self:
        for name in ("metrics_listen", "health_listen"):
            address = getattr(self, name)
            last = int(address.rpartition(":")[2] or 0) + self.workers - 1
            if last > LAST_PORT:
                raise ValueError(f"{name} {address} leaves worker {self.workers - 1} no port")
        return self


def unknown_variables(names: Iterable[str]) -> list[str]:
    """Return one line for each VOICECOHORT_ variable that no setting reads.

    A mistyped variable would otherwise leave its setting at the default without a warning.

    Args:
        names: names of all environment variables.
    """
    known = {PREFIX + name.upper() for name in ServerSettings.model_fields} | CLIENT_VARIABLES
    lines = []
    for name in sorted(names):
        prefixed = name.upper().startswith(PREFIX) and not _SERVICE_VARIABLE.fullmatch(name.upper())
        if prefixed and name.upper() not in known:
            matches = difflib.get_close_matches(name.upper(), known, n=1)
            hint = f"; did you mean {matches[0]}?" if matches else ""
            lines.append(f"environment variable {name}: no such setting{hint}")
    return lines
