"""The server's CPU by what it is spent on, and the same calls against a server without counters."""

from __future__ import annotations

import argparse
import json
import signal
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from floors import empty_servicer
from latency import server_flags, serving

from load.run import Generators, Meter, Outcome, on_cores, server_meter, speed
from streamer.process.local_server import LocalServer, local_server

MEASURED_SERVER = Path(__file__).with_name("server.py")
COUNTERS = "VOICECOHORT_COUNTERS"
COUNTERS_SECONDS = 10.0
"""A server that has not written its counters by then is stuck."""
PARTS = ("transport", "decode_vad", "decisions", "batching", "model")


class Counters:
    """Asks a measured server for its counters.

    Args:
        server: a running ``load/server.py``.
        path: where it writes them.
    """

    def __init__(self, server: LocalServer, path: Path) -> None:
        self._server = server
        self._path = path
        self._serial = 0.0

    def __call__(self) -> dict[str, float]:
        """The counters now; raises TimeoutError if the server does not answer."""
        self._server.process.send_signal(signal.SIGUSR1)
        deadline = time.monotonic() + COUNTERS_SECONDS
        while time.monotonic() < deadline:
            if self._path.exists():
                read: dict[str, float] = json.loads(self._path.read_text())
                if read["serial"] > self._serial:
                    self._serial = read["serial"]
                    return read
            time.sleep(0.002)
        raise TimeoutError(f"no counters from the server within {COUNTERS_SECONDS:g} s")


def split(grown: Mapping[str, float], call_seconds: float) -> dict[str, float]:
    """CPU-ms per call-second: ``total``, less what counting took, and the parts that add up to it.

    Args:
        grown: how much each counter of ``load/server.py`` grew.
        call_seconds: of calls meanwhile.

    Raises:
        ValueError: a part was never counted; the server does it elsewhere now.
    """
    for counter in ("messages", "predictions", "steps"):
        if not grown[counter]:
            raise ValueError(f"no {counter} were counted: load/server.py wraps the wrong place")
    parts = {
        "decode_vad": grown["decode_vad"],
        "decisions": grown["decisions"],
        "batching": grown["engine"] - grown["model"] + grown["handing"],
        "model": grown["model"],
    }
    total = grown["total"] - grown["counting"]
    parts = {"transport": total - sum(parts.values()), **parts}
    return {
        name: round(1000 * seconds / call_seconds, 4)
        for name, seconds in {"total": total, **parts}.items()
    }


class Bench:
    """Runs calls against fresh servers on cores of their own.

    Args:
        options: of the command line, see ``latency.load_arguments``.
        generators: that make the calls.
        mine: cores of the server.
        trunk_ms: see :class:`load.calls.Plan`.
        together: calls that share a connection, and a trunk if they are on one; as the command
            line says if it is None.

    Attributes:
        serving: what the last plain server said of itself when it began to serve.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        generators: Generators,
        mine: set[int],
        *,
        trunk_ms: float = 0.0,
        together: int | None = None,
    ) -> None:
        self._options = options
        self._generators = generators
        self._mine = mine
        self._trunk_ms = trunk_ms
        self._together = together or options.calls_per_connection
        self.serving: dict[str, Any] = {}

    def plain(
        self, calls: int, *, chunk_ms: int | None = None, flags: tuple[str, ...] = (), title: str
    ) -> tuple[Outcome, float]:
        """Calls against ``python -m streamer.serve``, and its CPU-ms per call-second."""
        with (
            on_cores(self._mine),
            local_server(*server_flags(self._options, calls + 10), *flags) as server,
        ):
            self.serving = serving(server)
            outcome = self._run(
                server,
                calls,
                chunk_ms,
                lambda: server_meter(server.process.pid, self._mine),
                title,
            )
        return outcome, outcome.per_call_second(outcome.metered["cpu"])

    def measured(self, calls: int, *, title: str) -> tuple[Outcome, dict[str, float]]:
        """Calls against ``load/server.py``, and its CPU by what it is spent on."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "counters.json"
            with (
                on_cores(self._mine),
                local_server(
                    *server_flags(self._options, calls + 10),
                    command=(str(MEASURED_SERVER),),
                    environment={COUNTERS: str(path)},
                ) as server,
            ):
                outcome = self._run(server, calls, None, Counters(server, path), title)
        return outcome, split(outcome.metered, outcome.call_seconds)

    def empty(self, calls: int, polling: str = "") -> float:
        """CPU-ms per call-second of an empty servicer, polling in one of ``floors.POLLING``."""
        found = empty_servicer(
            self._generators,
            calls,
            self._options.seconds,
            self._options.chunk_ms,
            self._mine,
            trunk_ms=self._trunk_ms,
            together=self._together,
            pollings=[polling],
        )
        return float(found[f"empty_servicer{polling}"])

    def _run(
        self,
        server: LocalServer,
        calls: int,
        chunk_ms: int | None,
        meter: Meter,
        title: str,
    ) -> Outcome:
        before = speed(self._mine)
        outcome = self._generators.run(
            server.target,
            calls,
            self._options.seconds,
            chunk_ms=chunk_ms or self._options.chunk_ms,
            meter=meter,
            calls_per_connection=self._together,
            trunk_ms=self._trunk_ms,
            seed=self._options.seed,
            title=title,
        )
        outcome.host_speed = round((before + speed(self._mine)) / 2, 1)
        return outcome
