"""What a server process holds, looked at once a second."""

from __future__ import annotations

import contextlib
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

from churn import footprint
from load.run import cpu_seconds
from prometheus_client.parser import text_string_to_metric_families

EVERY_SECONDS = 1.0
POLL_SECONDS = 0.5
COUNTERS = {"voicecohort_calls": "calls_by_status", "voicecohort_refusals": "refusals_by_status"}


def settled(
    pid: int, wanted: dict[str, float] | None = None, seconds: float = 5.0
) -> dict[str, float]:
    """What a process holds as soon as it is no more than ``wanted``, or after ``seconds``.

    Without ``wanted``: as soon as descriptors and threads stay what they are for a second.
    """
    until = time.monotonic() + seconds
    before: dict[str, float] = {}
    while True:
        now = held(pid)
        names = ("file_descriptors", "threads")
        if wanted is None:
            fine = all(now[name] == before.get(name) for name in names)
        else:
            fine = all(now[name] <= wanted[name] for name in names)
        if fine or time.monotonic() > until:
            return now
        before = now
        time.sleep(2 * POLL_SECONDS if wanted is None else POLL_SECONDS)


def held(pid: int) -> dict[str, float]:
    """Resident memory in MB, descriptors and threads of a process."""
    found = footprint(pid)
    return {
        "rss_mb": round(found["rss_bytes"] / 2**20, 2),
        "file_descriptors": found["file_descriptors"],
        "threads": found["threads"],
    }


def threads_by_name(pid: int) -> dict[str, int]:
    """How many threads of a process bear each name; those of Python are called as the program.

    ``event_engine`` are gRPC's pool, ``lifeguard`` adds to them where work waits.
    """
    names = Counter[str]()
    for path in sorted(Path(f"/proc/{pid}/task").glob("*/comm")):
        with contextlib.suppress(OSError):  # it has just ended
            names[path.read_text().strip()] += 1
    return dict(names)


class Watch:
    """Takes the samples on a thread of its own. A context manager.

    Args:
        pid: of the server.
        metrics: where it tells Prometheus what it counts.
    """

    def __init__(self, pid: int, metrics: str) -> None:
        self._pid = pid
        self._metrics = metrics
        self._samples: list[dict[str, float]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Watch:
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
                    **held(self._pid),
                    "calls_open": self._scraped()["voicecohort_calls_open"][""],
                    "cpu": round(spent - before, 3),
                }
            )

    def _scraped(self) -> dict[str, dict[str, float]]:
        """Every metric by the values of its labels."""
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
        """Calls and refusals by status."""
        scraped = self._scraped()
        return {key: scraped.get(name, {}) for name, key in COUNTERS.items()}

    def samples_since(self, begin: float) -> list[dict[str, float]]:
        """All samples, on a clock that began at ``begin``."""
        return [
            {**sample, "at": round(sample["at"] - begin, 2)}
            for sample in self._samples
            if sample["at"] >= begin
        ]
