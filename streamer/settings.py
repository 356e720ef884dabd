"""Settings of the server: every one a flag and an environment variable."""

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
"""What Kubernetes sets in every container for a Service whose name starts with ``voicecohort``."""


def _address(value: str) -> str:
    """HOST:PORT; gRPC itself would take port 99999 for 34463."""
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


def _address_or_nothing(value: str) -> str:
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
    """PEM file of the server's certificate, intermediate ones after it; replace it and the next
    connection gets the new one"""
    tls_key: Path | None = None
    """PEM file of its private key"""
    tls_client_ca: Path | None = None
    """PEM file of the authority whose clients are let in, and no others; needs a certificate"""
    insecure: bool = False
    """serve plaintext beyond loopback, tokens in clear if there are any: for a trusted network, or
    behind a proxy that does TLS"""
    tokens: Path | None = None
    """TOML file of who may call, each with the hash of a token (make one with: python -m
    streamer.security token); replace it and the next call is judged by the new one. Not given,
    whoever can connect may call"""
    checkpoint_keys: Path | None = None
    """TOML file of the keys that seal checkpoints, the same on every server that calls may move to
    (make one with: python -m streamer.security key); the first seals, all of them open, and a
    changed file is taken up. Not given, calls cannot have checkpoints"""
    checkpoint_max_age: float = Field(300.0, gt=0, le=86_400)
    """seconds that a checkpoint is good for"""
    metrics_listen: Annotated[str, AfterValidator(_address_or_nothing)] = ""
    """HOST:PORT for Prometheus to scrape, GET /metrics; empty serves none. Anyone who reaches it
    can read it. Worker k, from 0, takes the port + k; port 0 takes a free one for each"""
    worker_heartbeat_timeout: float = Field(30.0, ge=0)
    """a worker whose event loop has not run for so long is killed and replaced; 0 never does"""
    otlp_endpoint: Annotated[str, AfterValidator(_address_or_nothing)] = ""
    """HOST:PORT of an OpenTelemetry collector (OTLP over gRPC) that gets a span of every call;
    empty sends none. Needs the extra "tracing"; the collector's authority and headers are taken
    from OTEL_EXPORTER_OTLP_CERTIFICATE and OTEL_EXPORTER_OTLP_HEADERS"""
    otlp_insecure: bool = False
    """spans go in plaintext instead of TLS"""
    otlp_sample_ratio: float = Field(1.0, ge=0, le=1)
    """share of calls that get a span; a caller that sends a traceparent decides for itself"""
    health_listen: Annotated[str, AfterValidator(_address_or_nothing)] = ""
    """HOST:PORT that answers gRPC health checks and nothing else, in plaintext also where calls
    need TLS: for probes that know no TLS, as Kubernetes' own; empty serves none. Worker k, from 0,
    takes the port + k; port 0 takes a free one for each"""
    model: Path | None = None
    """student to serve, an ONNX file written by train/; the shipped one if not given. SIGHUP loads
    the file again: new calls take what is in it then, running ones keep their student"""
    provider: Literal["auto", "cpu", "cuda"] = "auto"
    """where the student runs; auto takes a GPU where there is one"""
    threads: int = Field(1, ge=1)
    """CPU threads of one student step; 1 is the cheapest per call"""
    workers: int = Field(1, ge=1, le=1024)
    """server processes that share the port, one per core; one that dies is replaced. A connection
    stays with the worker it met: open several"""
    max_batch: int = Field(32, ge=1, le=1024)
    """most calls advanced in one student step; 32 states fill a megabyte of cache, more cost more
    for each"""
    max_calls: int = Field(1000, ge=1)
    """calls at a time, for each worker; more are refused with RESOURCE_EXHAUSTED and a retry
    delay"""
    max_calls_per_identity: int | None = Field(None, ge=1)
    """likewise for each caller, told by its token, else its certificate, else its address; a
    token's own max_calls goes before. Not given, one caller may have them all"""
    max_chunk_seconds: float = Field(10.0, gt=0, le=60)
    """longest audio message"""
    max_call_seconds: float = Field(14_400.0, gt=0)
    """seconds after which a call gets its final predictions and ends with RESOURCE_EXHAUSTED"""
    max_lag_seconds: float = Field(10.0, gt=0)
    """seconds that audio of a live call may wait for the student; then it ends with
    RESOURCE_EXHAUSTED and a retry delay. Files streamed faster than speech may wait longer"""
    config_timeout: float = Field(10.0, gt=0)
    """seconds from the opening of a stream to its config; then it ends with DEADLINE_EXCEEDED"""
    idle_timeout: float = Field(300.0, gt=0)
    """seconds without any message after which a call ends with DEADLINE_EXCEEDED"""
    update_seconds: float = Field(0.5, ge=0.1, le=60)
    """audio between two predictions of a channel, where the call does not ask for another"""
    inference_timeout: float = Field(5.0, gt=0)
    """a student step that takes longer is given up: its calls end with UNAVAILABLE, the others go
    on"""
    unhealthy_exit_seconds: float = Field(60.0, ge=0)
    """a server whose student has not answered for so long exits with code 3, for its supervisor to
    start another: the parent of --workers does, systemd and Kubernetes do; 0 never exits"""
    drain_seconds: float = Field(30.0, ge=0)
    """how long running calls may go on after SIGTERM or SIGINT"""
    check: bool = False
    """check settings, certificates, address and model, stream a made-up call through the model,
    and exit: 0 if it could serve, 2 with one line if not"""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """least level that is logged"""

    @property
    def in_clear(self) -> bool:
        """Whether what is sent can be read on the way: plaintext beyond loopback."""
        return self.tls_certificate is None and not _loopback(self.listen)

    @model_validator(mode="after")
    def _secure(self) -> Self:
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
    def _a_port_for_every_worker(self) -> Self:
        for name in ("metrics_listen", "health_listen"):
            address = getattr(self, name)
            last = int(address.rpartition(":")[2] or 0) + self.workers - 1
            if last > LAST_PORT:
                raise ValueError(f"{name} {address} leaves worker {self.workers - 1} no port")
        return self


def unknown_variables(names: Iterable[str]) -> list[str]:
    """One line for each of our environment variables that no setting reads.

    A mistyped variable would otherwise leave its setting at the default without a word.

    Args:
        names: of all environment variables.
    """
    known = {PREFIX + name.upper() for name in ServerSettings.model_fields} | CLIENT_VARIABLES
    lines = []
    for name in sorted(names):
        ours = name.upper().startswith(PREFIX) and not _SERVICE_VARIABLE.fullmatch(name.upper())
        if ours and name.upper() not in known:
            close = difflib.get_close_matches(name.upper(), known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            lines.append(f"environment variable {name}: no such setting{hint}")
    return lines
