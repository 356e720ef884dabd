"""Start a server process on a free loopback port: for the demo, tests and benchmarks."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

START_SECONDS = 60.0
"""Limit for the log line "serving", which --log-level error would suppress."""


@dataclass
class LocalServer:
    """Running server process.

    Attributes:
        target: HOST:PORT.
        process: to send signals to or measure.
        log: JSON log lines so far, oldest first.
        other: other lines of standard error, such as those of gRPC.
    """

    target: str
    process: subprocess.Popen[str]
    log: list[dict[str, object]]
    other: list[str]


@contextlib.contextmanager
def local_server(
    *arguments: str,
    stop_seconds: float = 15.0,
    command: Sequence[str] = ("-m", "streamer.serve"),
    environment: Mapping[str, str] | None = None,
) -> Iterator[LocalServer]:
    """Start ``python -m streamer.serve`` with ``arguments``, wait until it serves, stop it at exit.

    Args:
        arguments: flags of the server.
        stop_seconds: after SIGTERM, before it is killed.
        command: of the interpreter; another program must log "serving" and its address as well.
        environment: variables besides those of this process.

    Raises:
        RuntimeError: the server ended before it served; the message is its output.
    """
    process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
        [sys.executable, *command, "--listen", "127.0.0.1:0", *arguments],
        env={**os.environ, **(environment or {})},
        stderr=subprocess.PIPE,
        text=True,
    )
    lines: list[dict[str, object]] = []
    other: list[str] = []
    serving = threading.Event()

    def collect() -> None:
        assert process.stderr is not None  # noqa: S101 - opened with PIPE
        for line in process.stderr:
            try:
                entry = json.loads(line)
            except ValueError:
                other.append(line)
                continue
            lines.append(entry)
            if entry.get("event") == "serving":
                serving.set()
        serving.set()

    collector = threading.Thread(target=collect, daemon=True)
    collector.start()
    try:
        if not serving.wait(START_SECONDS):
            raise RuntimeError(f"the server did not start to serve within {START_SECONDS:g} s")
        target = next((str(e["address"]) for e in lines if e.get("event") == "serving"), None)
        if target is None:
            process.wait()
            raise RuntimeError("".join(other).strip() or f"server ended with {process.returncode}")
        yield LocalServer(target, process, lines, other)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(stop_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        collector.join()
        if process.stderr is not None:
            process.stderr.close()
