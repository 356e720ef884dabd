"""What Envoy costs in front of a server: CPU of both, and latency, beside the server alone.

    python benchmarks/proxy_cost.py --calls 80 --seconds 15 --rounds 3

Live calls as in latency.py, on one server with one thread of Envoy in front of it
(deploy/envoy.yaml), in turns directly and through Envoy: what else the host does meets
both.

JSON keys: ``direct`` and ``through`` (medians over the rounds: ``server_cpu_ms_per_call_s``,
``envoy_cpu_ms_per_call_s``, ``p50_ms``, ``p99_ms``, ``lost``, ``refused``), ``envoy_share`` (CPU of
Envoy by CPU of the server behind it), ``envoy_rss_kb_per_call`` (growth from no calls to all),
``server_rss_mb`` (before the first call), ``rounds``, ``calls``, ``seconds``, ``chunk_ms``,
``device``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from latency import device_of, load_arguments, server_flags
from load.run import Generators, cores, cpu_seconds, on_cores, write_json

from streamer.process.local_server import LocalServer, local_server

CONFIG = Path(__file__).parents[1] / "deploy/envoy.yaml"
START_SECONDS = 20.0


def free_port() -> int:
    """A loopback port at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def rss_kb(pid: int) -> int:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    raise ValueError(f"process {pid} has no VmRSS")


@contextlib.contextmanager
def envoy(target: str) -> Iterator[tuple[str, int]]:
    """Envoy in front of a server; HOST:PORT and process id.

    Raises:
        RuntimeError: it is not ready in time.
    """
    config = yaml.safe_load(CONFIG.read_text())
    static, admin = config["static_resources"], free_port()
    config["admin"]["address"]["socket_address"]["port_value"] = admin
    port = free_port()
    for listener, number in zip(static["listeners"], (port, free_port()), strict=True):
        listener["address"]["socket_address"]["port_value"] = number
    (locality,) = static["clusters"][0]["load_assignment"]["endpoints"]
    host, _, server_port = target.rpartition(":")
    address = locality["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]
    address.update(address=host, port_value=int(server_port))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "envoy.json"
        file.write_text(json.dumps(config))
        words = [Path(sys.executable).with_name("envoy"), "-c", file, "--use-dynamic-base-id"]
        words += ["--concurrency", "1", "-l", "error"]
        process = subprocess.Popen(  # noqa: S603 - Envoy beside our interpreter
            [str(word) for word in words], stdout=subprocess.DEVNULL
        )
        try:
            until = time.monotonic() + START_SECONDS
            while not ready(admin):
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError("Envoy is not ready")
                time.sleep(0.1)
            yield f"127.0.0.1:{port}", process.pid
        finally:
            process.terminate()
            process.wait()


def ready(admin: int) -> bool:
    """Whether Envoy has looked at its server."""
    with contextlib.suppress(OSError):
        url = f"http://127.0.0.1:{admin}/ready"
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    return False


def one_round(
    generators: Generators,
    target: str,
    server: LocalServer,
    proxy: int,
    options: argparse.Namespace,
    title: str,
) -> dict[str, Any]:
    """Figures of one run."""
    most = 0

    def meter() -> dict[str, float]:
        nonlocal most
        most = max(most, rss_kb(proxy))
        return {"server": cpu_seconds(server.process.pid), "envoy": cpu_seconds(proxy)}

    outcome = generators.run(
        target,
        options.calls,
        options.seconds,
        chunk_ms=options.chunk_ms,
        meter=meter,
        calls_per_connection=options.calls_per_connection,
        seed=options.seed,
        title=title,
    )
    figures = outcome.figures()
    return {
        "server_cpu_ms_per_call_s": outcome.per_call_second(outcome.metered["server"]),
        "envoy_cpu_ms_per_call_s": outcome.per_call_second(outcome.metered["envoy"]),
        **{name: figures[name] for name in ("p50_ms", "p99_ms", "lost", "refused")},
        "envoy_rss_kb": most,
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All rounds, and the JSON that the module documents."""
    mine, theirs = cores(1)
    with contextlib.ExitStack() as stack:
        with on_cores(mine):
            flags = server_flags(options, options.calls + 10)
            server = stack.enter_context(local_server(*flags))
        server_rss = rss_kb(server.process.pid)
        with on_cores(theirs):
            through, proxy = stack.enter_context(envoy(server.target))
        before = rss_kb(proxy)
        generators = stack.enter_context(Generators(options.generators, theirs))
        rounds: dict[str, list[dict[str, Any]]] = {"direct": [], "through": []}
        for _ in range(options.rounds):
            for name, target in (("direct", server.target), ("through", through)):
                run = one_round(generators, target, server, proxy, options, name)
                rounds[name].append(run)
    medians = {
        name: {key: round(statistics.median(run[key] for run in runs), 3) for key in runs[0]}
        for name, runs in rounds.items()
    }
    grown = medians["through"].pop("envoy_rss_kb") - before
    del medians["direct"]["envoy_rss_kb"]
    cost = medians["through"]
    return {
        **medians,
        "envoy_share": round(cost["envoy_cpu_ms_per_call_s"] / cost["server_cpu_ms_per_call_s"], 3),
        "envoy_rss_kb_per_call": round(grown / options.calls, 1),
        "server_rss_mb": round(server_rss / 1024, 1),
        "rounds": options.rounds,
        "calls": options.calls,
        "seconds": options.seconds,
        "chunk_ms": options.chunk_ms,
        "device": device_of(server),
    }


def main() -> int:
    """Command line; 1 if a call was lost."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=80, help="at the same time (%(default)s)")
    parser.add_argument("--seconds", type=int, default=15, help="of each run (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of both (%(default)s)")
    load_arguments(parser)
    options = parser.parse_args()
    result = measure(options)
    write_json(result, options.json)
    return 1 if result["direct"]["lost"] + result["through"]["lost"] else 0


if __name__ == "__main__":
    sys.exit(main())
