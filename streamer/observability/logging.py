"""The server's log: JSON lines on standard error, gRPC's failed handshakes included.

A connection that fails its TLS handshake never becomes a stream, and gRPC reports it to no
callback: its C++ core writes a line to descriptor 2. :func:`captured` replaces the descriptor by a
pipe. :class:`CoreLog` counts the lines in it and writes them to the log as JSON, ten times a second
so that many failures write few lines. A full pipe drops lines instead of blocking gRPC.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TextIO

import structlog

log = structlog.get_logger()

READ_INTERVAL_SECONDS = 0.1
READ_BYTES = 1 << 16
"""Bytes of one read; a longer line is cut."""
MAX_TEXT = 500
"""Characters of a line that are logged."""
_FAILED = re.compile(r"Handshake failed with error .*OPENSSL_internal:(\w+)(?:: (.*))?$")


def configure_log(level: str, **fields: object) -> None:
    """Log JSON lines to standard error, unbuffered because several processes may share it.

    Args:
        level: lowest level that is logged.
        fields: added to every line.
    """
    structlog.configure(
        processors=[
            lambda _logger, _method, event: {**fields, **event},
            # Adds call_id and trace_id to lines logged while a call's stream is served.
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def handshake_failure(line: str) -> str | None:
    """Return the reason of a failed handshake as BoringSSL names it; None for other lines."""
    found = _FAILED.search(line)
    if found is None:
        return None
    code, detail = found[1].lower(), found[2]
    return f"{code}: {detail}" if detail and code == "certificate_verify_failed" else code


def _process_lines(lines: list[bytes], on_failures: Callable[[int], None]) -> None:
    texts = [line.decode(errors="backslashreplace") for line in lines if line]
    reasons = [handshake_failure(text) for text in texts]
    failures = Counter(reason for reason in reasons if reason is not None)
    if failures:
        on_failures(failures.total())  # before the log line, so that a reader finds them counted
    for reason, count in failures.items():
        log.info("handshake_failed", reason=reason, count=count)
    for text, found in zip(texts, reasons, strict=True):
        if found is None:
            log.warning("native_output", text=text[:MAX_TEXT])


class CoreLog:
    """Reader of the pipe that replaces descriptor 2.

    Args:
        source: descriptor of the pipe's reading end.
    """

    def __init__(self, source: int) -> None:
        self._source = source
        self._thread: threading.Thread | None = None

    def start(self, on_failures: Callable[[int], None]) -> None:
        """Log and count lines until descriptor 2 is restored.

        Args:
            on_failures: receives the number of newly failed handshakes, on the reader's thread.
        """
        self._thread = threading.Thread(target=self._read, args=(on_failures,), name="core log")
        self._thread.start()

    def _read(self, on_failures: Callable[[int], None]) -> None:
        partial = b""
        while more := os.read(self._source, READ_BYTES):
            *lines, partial = (partial + more).split(b"\n")
            _process_lines(lines, on_failures)
            partial = partial[:READ_BYTES]
            time.sleep(READ_INTERVAL_SECONDS)
        _process_lines([partial], on_failures)

    def join(self) -> None:
        """Wait until all lines are processed; before :meth:`start`, copy them to descriptor 2."""
        if self._thread is not None:
            self._thread.join()
            return
        while more := os.read(self._source, READ_BYTES):
            os.write(2, more)


@contextlib.contextmanager
def captured() -> Iterator[CoreLog]:
    """Replace descriptor 2 by a pipe; Python's ``sys.stderr`` keeps the original.

    The traceback of a crash in native code goes to the original, because the pipe has no reader
    any more by then.
    """
    before: TextIO = sys.stderr
    real = os.dup(2)
    source, sink = os.pipe()
    os.set_blocking(sink, False)
    os.dup2(sink, 2)
    os.close(sink)
    with os.fdopen(real, "w", buffering=1, errors="backslashreplace") as stderr:
        sys.stderr = stderr
        faulthandler.enable(stderr)
        core = CoreLog(source)
        try:
            yield core
        finally:
            faulthandler.disable()
            os.dup2(real, 2)  # closes the pipe: its reader ends
            core.join()
            os.close(source)
            sys.stderr = before
