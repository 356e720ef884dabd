"""The log: JSON lines on standard error.

What gRPC's core writes to standard error: refused handshakes, which it tells nobody else.

A connection that fails its TLS handshake never becomes a stream, and gRPC calls no one back. Its
C++ core writes a line per failure to descriptor 2. Here those lines come out of a pipe, are
counted, and go to the log as JSON like all others; ten times a second, so that a flood of them
fills no disk. A full pipe drops lines rather than keep gRPC waiting.
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


def configure_log(level: str, **fields: object) -> None:
    """JSON lines on standard error, each written at once: several processes may share it.

    Args:
        level: least that is logged.
        fields: of every line.
    """
    structlog.configure(
        processors=[
            lambda _logger, _method, event: {**fields, **event},
            # Whatever is said while a call's stream is served: its call_id and trace_id.
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


log = structlog.get_logger()

GATHER_SECONDS = 0.1
CHUNK = 1 << 16
"""Bytes that are read at once; a longer line is cut."""
LONGEST_TEXT = 500
"""Characters of another line that are logged."""
_FAILED = re.compile(r"Handshake failed with error .*OPENSSL_internal:(\w+)(?:: (.*))?$")


def handshake_failure(line: str) -> str | None:
    """Why a handshake failed, in the words of BoringSSL; None for any other line."""
    found = _FAILED.search(line)
    if found is None:
        return None
    code, detail = found[1].lower(), found[2]
    return f"{code}: {detail}" if detail and code == "certificate_verify_failed" else code


def _tell(lines: list[bytes], failed: Callable[[int], None]) -> None:
    texts = [line.decode(errors="backslashreplace") for line in lines if line]
    reasons = [handshake_failure(text) for text in texts]
    failures = Counter(reason for reason in reasons if reason is not None)
    if failures:
        failed(failures.total())  # first: who reads the log finds them counted
    for reason, count in failures.items():
        log.info("handshake_failed", reason=reason, count=count)
    for text, found in zip(texts, reasons, strict=True):
        if found is None:
            log.warning("native_output", text=text[:LONGEST_TEXT])


class CoreLog:
    """Descriptor 2 of this process, as a pipe.

    Args:
        source: where its lines are read.
    """

    def __init__(self, source: int) -> None:
        self._source = source
        self._thread: threading.Thread | None = None

    def follow(self, failed: Callable[[int], None]) -> None:
        """Log and count lines until descriptor 2 is itself again.

        Args:
            failed: told, on a thread of its own, how many handshakes failed just now.
        """
        self._thread = threading.Thread(target=self._read, args=(failed,), name="core log")
        self._thread.start()

    def _read(self, failed: Callable[[int], None]) -> None:
        rest = b""
        while more := os.read(self._source, CHUNK):
            *lines, rest = (rest + more).split(b"\n")
            _tell(lines, failed)
            rest = rest[:CHUNK]
            time.sleep(GATHER_SECONDS)
        _tell([rest], failed)

    def join(self) -> None:
        """Wait until everything written is read; of a server that did not start, pass it on."""
        if self._thread is not None:
            self._thread.join()
            return
        while more := os.read(self._source, CHUNK):
            os.write(2, more)


@contextlib.contextmanager
def captured() -> Iterator[CoreLog]:
    """Put a pipe in the place of descriptor 2; what Python writes goes where it went before.

    A crash in native code cannot say why through the pipe: Python's own account of it goes to the
    real standard error instead.
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
