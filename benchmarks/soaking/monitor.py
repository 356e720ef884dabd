"""Sample the resources and counters of a server process once a second."""

from __future__ import annotations

import contextlib
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

from load.processes import cpu_seconds
from prometheus_client.parser import text_string_to_metric_families

EVERY_SECONDS = 1.0
POLL_SECONDS = 0.5
COUNTERS = {"voicecohort_calls": "calls_by_status", "voicecohort_refusals": "refusals_by_status"}


def settled(
    pid: int, limit: dict[str, float] | None = None, seconds: float = 5.0
) -> dict[str, float]:
    """Return the resources of a process once they are at most ``limit``, or after ``seconds``.

    Without ``limit``: once descriptors and threads have not changed for a second.
    """
    until = time.monotonic() + seconds
    before: dict[str, float] = {}
    while True:
        now = resources(pid)
        names = ("file_descriptors", "threads")
        if limit is None:
            fine = all(now[name] == before.get(name) for name in names)
        else:
            fine = all(now[name] <= limit[name] for name in names)
        if fine or time.monotonic() > until:
            return now
        before = now
        time.sleep(2 * POLL_SECONDS if limit is None else POLL_SECONDS)


def resources(pid: int) -> dict[str, float]:
    """Return resident memory in MB, file descriptors and threads of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    return {
        "rss_mb": round(int(status["VmRSS"].split()[0]) / 1024, 3),
        "file_descriptors": sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()),
        "threads": int(status["Threads"]),
    }


def threads_by_name(pid: int) -> dict[str, int]:
    """Count the threads of a process by name; those of Python have the program's name.

    ``event_engine`` is gRPC's pool; ``lifeguard`` grows it when work is pending.
    """
    names = Counter[str]()
    for path in sorted(Path(f"/proc/{pid}/task").glob("*/comm")):
        with contextlib.suppress(OSError):  # it has just ended
            names[path.read_text().strip()] += 1
    return dict(names)


class Monitor:
    """Take samples on a thread of its own. A context manager.

    Args:
        pid: of the server.
        metrics: URL of its Prometheus metrics.
    """

    def __init__(self, pid: int, metrics: str) -> None:
        self._pid = pid
        self._metrics = metrics
        self._samples: list[dict[str, float]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Monitor:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        spent = cpu_seconds(self._pid)
        due = time.monotonic()
        while not self._over.wait(max(0.0, due - time.monotonic())):
            due += EVERY_SECONDS
            before, spent = spent, cpu_seconds(self._pid)
            self._samples.append(
                {
                    "at": time.monotonic(),
                    **resources(self._pid),
                    "calls_open": self._scraped()["voicecohort_calls_open"][""],
                    "cpu": round(spent - before, 3),
                }
            )

    def _scraped(self) -> dict[str, dict[str, float]]:
        """Return every metric by the values of its labels."""
        with urllib.request.urlopen(self._metrics, timeout=10) as answer:  # noqa: S310 - loopback
            text = answer.read().decode()
        found: dict[str, dict[str, float]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if not sample.name.endswith("_created"):
                    ordered = sorted(sample.labels.items(), key=lambda item: item[0] != "status")
                    labels = " ".join(value for _, value in ordered)
                    found.setdefault(family.name, {})[labels] = sample.value
        return found

    def counts(self) -> dict[str, Any]:
        """Return calls and refusals by status."""
        scraped = self._scraped()
        return {key: scraped.get(name, {}) for name, key in COUNTERS.items()}

    def samples_since(self, begin: float) -> list[dict[str, float]]:
        """Return all samples since ``begin``, as seconds since then."""
        return [
            {**sample, "at": round(sample["at"] - begin, 2)}
            for sample in self._samples
            if sample["at"] >= begin
        ]
