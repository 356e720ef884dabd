"""Lines of gRPC's core: what is made of them, and that standard error stays in order."""

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from streamer.observability.logging import MAX_TEXT, CoreLog, handshake_failure

START = "I1125 09:38:04.984810   15080 ssl_transport_security.cc:2563] Handshake failed with error "
FAILED = START + "SSL_ERROR_SSL: error:1000007d:SSL routines:OPENSSL_internal:"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (
            FAILED + "WRONG_VERSION_NUMBER: Invalid certificate verification context",
            "wrong_version_number",
        ),
        (
            FAILED + "CERTIFICATE_VERIFY_FAILED: certificate has expired",
            "certificate_verify_failed: certificate has expired",
        ),
        (FAILED + "TLSV1_ALERT_UNKNOWN_CA", "tlsv1_alert_unknown_ca"),
        ("W1125 09:38:04.984810   15080 log.cc:102] Log level INFO", None),
        ("", None),
    ],
)
def test_failed_handshake_is_recognized(line, reason):
    assert handshake_failure(line) == reason


@given(st.text())
def test_other_text_is_no_failure(text):
    assert handshake_failure(text) is None


def test_failures_are_counted_before_logged():
    source, sink = os.pipe()
    core = CoreLog(source)
    counted_at = []
    with os.fdopen(source), capture_logs() as entries:
        core.start(lambda count: counted_at.append((count, len(entries))))
        os.write(sink, FAILED.encode() + b"WRONG_VERSION_NUMBER: x\n")
        os.close(sink)
        core.join()
    assert counted_at == [(1, 0)]
    assert [entry["event"] for entry in entries] == ["handshake_failed"]


SCRIPT = """
import os, sys
from streamer.observability.logging import captured
from streamer.observability.logging import configure_log

failed = []
with captured() as core:
    configure_log("info")
    os.write(2, b"before anyone follows\\n")
    if sys.argv[1] == "follow":
        core.start(failed.append)
        print("from Python", file=sys.stderr)
        os.write(2, sys.argv[2].encode() * 3 + b"x" * 1000 + b"\\n")
        os.write(2, b"and a line that is not ended")
os.write(2, b"after\\n")
print(sum(failed))
"""


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )


def test_lines_become_log_entries_and_are_counted():
    done = run("follow", FAILED + "WRONG_VERSION_NUMBER: x\n")
    assert done.stdout == "3\n"
    lines = done.stderr.splitlines()
    assert "from Python" in lines
    assert lines[-1] == "after"
    entries = [json.loads(line) for line in lines if line.startswith("{")]
    assert len(entries) == len(lines) - 2
    by_event = {}
    for entry in entries:
        by_event.setdefault(entry["event"], []).append(entry)
    failures = by_event["handshake_failed"]
    assert {entry["reason"] for entry in failures} == {"wrong_version_number"}
    assert sum(entry["count"] for entry in failures) == 3
    texts = [entry["text"] for entry in by_event["native_output"]]
    assert texts == ["before anyone follows", "x" * MAX_TEXT, "and a line that is not ended"]


def test_output_before_the_start_is_copied():
    done = run("alone")
    assert done.stderr == "before anyone follows\nafter\n"
    assert done.stdout == "0\n"


def test_many_lines_do_not_block_the_writer():
    """A full pipe drops lines: gRPC's threads must not stand still for the log."""
    flood = SCRIPT.replace(
        'os.write(2, b"before anyone follows\\n")',
        "import contextlib\n    for _ in range(100):\n        with contextlib.suppress"
        '(BlockingIOError):\n            os.write(2, b"y" * 4096)',
    )
    done = subprocess.run(
        [sys.executable, "-c", flood, "alone"], capture_output=True, timeout=60, check=True
    )
    assert 4096 <= done.stderr.count(b"y") < 100 * 4096
