"""Replicas behind the real Envoy, with the configuration that is shipped."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

import streamer
from streamer.process.local_server import LocalServer, local_server
from tests.streamer import conftest as shared

# Fixtures of the streamer's tests.
assert_same_prediction = shared.assert_same_prediction
audio = shared.audio
chunks = shared.chunks
free_port = shared.free_port
line = shared.line
log_entry = shared.log_entry
make_line = shared.make_line
make_neighbour = shared.make_neighbour
neighbour = shared.neighbour
quiet = shared.quiet
request_of = shared.request_of
voices = shared.voices

DEPLOY = Path(streamer.__file__).parents[1] / "deploy"
ENVOY = Path(sys.executable).with_name("envoy")
NAME = "voicecohort-replicas"
WAIT_SECONDS = 30.0
"""Far longer than anything takes; only a failing test waits for it."""


def wait_until(condition, what, seconds=WAIT_SECONDS):
    """Until ``condition()`` is true, which is returned."""
    until = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < until, f"in vain for {what}"
        time.sleep(0.02)
    return result


def free_ports(count):
    """Loopback ports at which nobody listens."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def named(entries, name):
    return next(entry for entry in entries if entry["name"] == name)


def render(
    file: Path,
    replicas: Sequence[str],
    calls: int,
    watch: int,
    admin: int,
    folder: Path | None = None,
    health_seconds: float | None = None,
    nameserver: int | None = None,
) -> dict[str, Any]:
    """A shipped configuration with addresses of this machine in place of its own.

    Args:
        file: envoy.yaml or envoy-tls.yaml.
        replicas: HOST:PORT of each, instead of the DNS name.
        calls, watch, admin: loopback ports.
        folder: instead of /etc/envoy; with -secrets behind it, instead of /etc/envoy-secrets.
        health_seconds: between health checks, if not as in the file.
        nameserver: port of one that knows the name; then the name stays, with the port of the
            replicas, and is queried twice a second.
    """
    text = file.read_text()
    config = yaml.safe_load(text if folder is None else text.replace("/etc/envoy", str(folder)))

    def address(port, host="127.0.0.1"):
        return {"socket_address": {"address": host, "port_value": int(port)}}

    static = config["static_resources"]
    config["admin"]["address"] = address(admin)
    named(static["listeners"], "calls")["address"] = address(calls)
    named(static["listeners"], "watch")["address"] = address(watch)
    hosts = [
        {"endpoint": {"address": address(port, host)}}
        for host, _, port in (replica.rpartition(":") for replica in replicas)
    ]
    for name, endpoints in (
        ("replicas", hosts),
        ("admin", [{"endpoint": {"address": address(admin)}}]),
    ):
        named(static["clusters"], name)["load_assignment"]["endpoints"] = [
            {"lb_endpoints": endpoints}
        ]
    if nameserver is not None:
        cluster = named(static["clusters"], "replicas")
        lookup = cluster["cluster_type"]["typed_config"]
        lookup["dns_refresh_rate"] = "0.5s"
        lookup["typed_dns_resolver_config"] = {
            "name": "envoy.network.dns_resolver.cares",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3"
                ".CaresDnsResolverConfig",
                "resolvers": [address(nameserver)],
                "use_resolvers_as_fallback": False,
                "dns_resolver_options": {"no_default_search_domain": True},
            },
        }
        name = {"endpoint": {"address": address(hosts_port(replicas), NAME)}}
        cluster["load_assignment"]["endpoints"] = [{"lb_endpoints": [name]}]
    if health_seconds is not None:
        (check,) = named(static["clusters"], "replicas")["health_checks"]
        for name in [name for name in check if name.endswith("interval")]:
            check[name] = f"{health_seconds}s"
    return config


def hosts_port(replicas: Sequence[str]) -> str:
    (port,) = {replica.rpartition(":")[2] for replica in replicas}
    return port


class Replica:
    """A server process that can be killed and started again on its port.

    Attributes:
        target: HOST:PORT, the same for all its lives.
        lives: every server process so far, the present one last.
    """

    def __init__(self, *flags: str, target: str = "") -> None:
        self._flags = flags
        self._stack = contextlib.ExitStack()
        self.lives: list[LocalServer] = []
        self.target = target

    @property
    def server(self) -> LocalServer:
        """The present process."""
        return self.lives[-1]

    @property
    def log(self) -> list[dict[str, object]]:
        """Log lines of all its lives."""
        return [entry for server in self.lives for entry in server.log]

    def started_calls(self) -> list[str]:
        """Ids of the calls that began here."""
        return [str(e["call_id"]) for e in self.log if e["event"] == "call_started"]

    def start(self) -> None:
        """Start it, again on the same port, and wait until it serves."""
        listen = ("--listen", self.target) if self.target else ()
        running = local_server("--provider", "cpu", *listen, *self._flags)
        self.lives.append(self._stack.enter_context(running))
        self.target = self.server.target

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.server.process.kill()
        self.server.process.wait()

    def terminate(self) -> None:
        """SIGTERM: it begins to drain; returns at once."""
        self.server.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Until it has ended; its exit code."""
        return self.server.process.wait(WAIT_SECONDS)

    def close(self) -> None:
        self._stack.close()


class Envoy:
    """The real Envoy in front of some replicas.

    Attributes:
        target: HOST:PORT for calls.
        watch: URL of the listener for probes and Prometheus.
        process: to signal or measure.

    Args:
        folder: takes what is in /etc/envoy elsewhere, and the logs.
        replicas: HOST:PORT of each.
        file: envoy.yaml or envoy-tls.yaml.
        health_seconds: between health checks, if not as in the file.
        secrets: folder of the certificates, for envoy-tls.yaml.
        nameserver: port of one to ask for the replicas, instead of ``replicas``' addresses.
    """

    def __init__(
        self,
        folder: Path,
        replicas: Sequence[str],
        file: Path = DEPLOY / "envoy.yaml",
        health_seconds: float | None = None,
        secrets: Path | None = None,
        nameserver: int | None = None,
    ) -> None:
        calls, watch, self.admin = free_ports(3)
        self.target = f"127.0.0.1:{calls}"
        self.watch = f"http://127.0.0.1:{watch}"
        self._replicas = list(replicas)
        self._output, self._log = folder / "envoy.out", folder / "envoy.log"
        config = folder / "envoy.json"
        rendered = render(
            file, replicas, calls, watch, self.admin, folder, health_seconds, nameserver
        )
        if secrets is not None:
            Path(f"{folder}-secrets").symlink_to(secrets)
        (folder / "sds").mkdir()
        for source in (DEPLOY / "sds").glob("*.yaml"):
            text = source.read_text().replace("/etc/envoy", str(folder))
            (folder / "sds" / source.name).write_text(text)
        config.write_text(json.dumps(rendered))
        words = [ENVOY, "-c", config, "--use-dynamic-base-id", "--concurrency", "1"]
        words += ["--log-path", self._log, "-l", "warning", "--file-flush-interval-msec", "50"]
        with self._output.open("w") as output:
            self.process = subprocess.Popen([*map(str, words)], stdout=output, stderr=output)

    def get(self, path: str, method: str = "GET") -> str:
        """What the admin endpoint answers."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.admin}{path}", method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - http, above
            text: str = answer.read().decode()
        return text

    def stats(self, prefix: str) -> dict[str, int]:
        """Counters and gauges whose names begin so, without the beginning."""
        lines = self.get(f"/stats?filter=^{prefix.replace('.', '[.]')}").splitlines()
        pairs = (line.partition(": ")[::2] for line in lines)
        return {name[len(prefix) :]: int(value) for name, value in pairs if value.isdigit()}

    def known(self) -> dict[str, set[str]]:
        """Why each replica that it knows gets no calls; empty for those that do."""
        answer = json.loads(self.get("/clusters?format=json"))
        cluster = named(answer["cluster_statuses"], "replicas")
        found = {}
        for host in cluster.get("host_statuses", []):
            at = host["address"]["socket_address"]
            reasons = {key for key, value in host["health_status"].items() if value is True}
            found[f"{at['address']}:{at['port_value']}"] = reasons
        return found

    def ill(self) -> dict[str, set[str]]:
        """Why each replica that gets no calls gets none: empty when all are healthy."""
        found = self.known()
        absent = {replica: {"absent"} for replica in self._replicas if replica not in found}
        return absent | {replica: reasons for replica, reasons in found.items() if reasons}

    def wait_started(self) -> None:
        """Until it answers and has looked at every replica once, whatever it saw."""

        def started():
            assert self.process.poll() is None, self.everything_written()
            with contextlib.suppress(urllib.error.URLError):
                return self.get("/ready") == "LIVE\n"
            return False

        wait_until(started, "Envoy")

    def wait_healthy(self) -> None:
        """Until all replicas get calls."""

        self.wait_started()
        wait_until(lambda: not self.ill(), "healthy replicas")

    def access_log(self) -> list[dict[str, Any]]:
        """Streams that have ended, oldest first."""
        return [json.loads(line) for line in self._output.read_text().splitlines()]

    def everything_written(self) -> str:
        """Access log and its own log."""
        return self._output.read_text() + self._log.read_text()

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(WAIT_SECONDS)


class Fleet:
    """Replicas and an Envoy in front of them.

    Attributes:
        replicas: first to last.
        envoy: in front.
        target: HOST:PORT for calls.
    """

    def __init__(
        self, folder: Path, count: int, flags: Sequence[str], wait: bool = True, **options: Any
    ) -> None:
        with contextlib.ExitStack() as stack:
            self.replicas = [Replica(*flags) for _ in range(count)]
            for replica in self.replicas:
                stack.callback(replica.close)
            with ThreadPoolExecutor(count) as pool:
                list(pool.map(Replica.start, self.replicas))
            targets = [replica.target for replica in self.replicas]
            self.envoy = Envoy(folder, targets, **options)
            stack.callback(self.envoy.close)
            (self.envoy.wait_healthy if wait else self.envoy.wait_started)()
            self._stack = stack.pop_all()
        self.target = self.envoy.target

    def ill(self) -> dict[int, set[str]]:
        """As the Envoy's, by index of the replica."""
        reasons = self.envoy.ill()
        targets = [replica.target for replica in self.replicas]
        return {targets.index(target): why for target, why in reasons.items()}

    def of_call(self, call_id: str) -> int:
        """Index of the replica on which a call began last."""

        def found():
            return [
                (entry["timestamp"], index)
                for index, replica in enumerate(self.replicas)
                for entry in replica.log
                if entry["event"] == "call_started" and entry["call_id"] == call_id
            ]

        return max(wait_until(found, f"call {call_id} in a log"))[1]

    def close(self) -> None:
        self._stack.close()


@pytest.fixture(scope="session")
def deploy():
    """Folder of what is deployed."""
    return DEPLOY


@contextlib.contextmanager
def fleets(factory):
    """Make fleets in folders of their own; all are taken down at the end."""
    with contextlib.ExitStack() as stack:

        def make(count: int = 2, *flags: str, **options: Any) -> Fleet:
            fleet = Fleet(factory.mktemp("fleet"), count, flags, **options)
            stack.callback(fleet.close)
            return fleet

        yield make


@pytest.fixture
def make_fleet(tmp_path_factory):
    """Start replicas, each with some flags, and an Envoy: make_fleet(2, "--drain-seconds", "20").

    ``file``, ``health_seconds`` and ``secrets``: see Envoy. ``wait=False`` does not wait until
    all replicas are healthy.
    """
    with fleets(tmp_path_factory) as make:
        yield make


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    """Two replicas that a test leaves as healthy as they were."""
    with fleets(tmp_path_factory) as make:
        yield make(2)


@pytest.fixture
def make_replica():
    """Start a replica of one's own: make_replica("--flag", target="127.0.0.2:50051")."""
    with contextlib.ExitStack() as stack:

        def make(*flags: str, target: str = "") -> Replica:
            replica = Replica(*flags, target=target)
            stack.callback(replica.close)
            replica.start()
            return replica

        yield make


@pytest.fixture
def make_envoy(tmp_path):
    """Start an Envoy in front of some replicas: make_envoy(["HOST:PORT"], ...), see Envoy."""
    with contextlib.ExitStack() as stack:

        def make(replicas: Sequence[str], **options: Any) -> Envoy:
            envoy = Envoy(tmp_path, replicas, **options)
            stack.callback(envoy.close)
            envoy.wait_started()
            return envoy

        yield make


@pytest.fixture(scope="session")
def until():
    """Wait for a condition: until(condition, "what it is")."""
    return wait_until
