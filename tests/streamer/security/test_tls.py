"""TLS as a gateway meets it, on a real server: who gets in, and certificates that change."""

import asyncio
import datetime as dt
import os
import subprocess
import sys

import grpc
import pytest
import trustme

from streamer.client import Client, tls
from streamer.process.local_server import local_server

SILENCE = bytes([0xFF]) * 800


class Office:
    """An authority and the files it writes."""

    def __init__(self, folder):
        self.folder = folder
        self.authority = trustme.CA()
        self.ca = folder / "ca.pem"
        self.authority.cert_pem.write_to_path(self.ca)

    def issue(self, name, **options):
        leaf = self.authority.issue_cert("127.0.0.1", "localhost", **options)
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        # Replaced, as tools that renew certificates do: never half-written.
        for blob, path in (
            (b"".join(b.bytes() for b in leaf.cert_chain_pems), certificate),
            (leaf.private_key_pem.bytes(), key),
        ):
            fresh = path.with_suffix(".new")
            fresh.write_bytes(blob)
            fresh.replace(path)
        return certificate, key


@pytest.fixture
def office(tmp_path):
    return Office(tmp_path)


@pytest.fixture
def other(tmp_path):
    (tmp_path / "other").mkdir()
    return Office(tmp_path / "other")


def secured(certificate, key, *more):
    return "--tls-certificate", str(certificate), "--tls-key", str(key), *map(str, more)


async def one_call(target, credentials=None):
    async with (
        asyncio.timeout(20),
        Client(target, credentials) as client,
        client.call() as call,
    ):
        await call.send(SILENCE)
        return await call.finish()


def classify(target, credentials=None):
    (final,) = asyncio.run(one_call(target, credentials))
    return final


def refused(target, credentials=None):
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        classify(target, credentials)
    return raised.value.code() is grpc.StatusCode.UNAVAILABLE


def test_only_clients_that_trust_the_authority_connect(office, other):
    with local_server(*secured(*office.issue("server"))) as server:
        assert next(e for e in server.log if e["event"] == "serving")["security"] == "TLS"
        assert classify(server.target, tls(office.ca)).final
        assert refused(server.target, tls(other.ca))
        assert refused(server.target), "plaintext to a TLS port"
        assert classify(server.target, tls(office.ca)).final


def test_mutual_tls_accepts_signed_clients(office, other):
    past = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    server_files = office.issue("server")
    mine = office.issue("client")
    expired = office.issue("expired", not_before=past, not_after=past + dt.timedelta(days=1))
    foreign = other.issue("foreign")
    with local_server(*secured(*server_files, "--tls-client-ca", office.ca)) as server:
        assert next(e for e in server.log if e["event"] == "serving")["security"] == "mutual TLS"
        assert classify(server.target, tls(office.ca, *mine)).final
        assert refused(server.target, tls(office.ca)), "no certificate"
        assert refused(server.target, tls(office.ca, *expired))
        assert refused(server.target, tls(office.ca, *foreign))
    # Without metrics gRPC's own lines are not captured.
    assert not any(entry["event"] == "handshake_failed" for entry in server.log)
    assert any("Handshake failed" in line for line in server.other)


def test_new_certificates_apply_and_calls_go_on(office, other, tmp_path):
    files = office.issue("server")

    async def scenario(server):
        old = tls(office.ca)
        async with asyncio.timeout(60), Client(server.target, old) as client, client.call() as call:
            await call.send(SILENCE)
            for name, path in zip(("server.pem", "server.key"), other.issue("server"), strict=True):
                path.replace(tmp_path / name)
            assert (await one_call(server.target, tls(other.ca)))[0].final
            with pytest.raises(grpc.aio.AioRpcError):
                await one_call(server.target, old)
            (tmp_path / "server.pem").write_text("no certificate")
            assert (await one_call(server.target, tls(other.ca)))[0].final  # the good one is kept
            await call.send(SILENCE)
            (final,) = await call.finish()
            assert final.audio_time == pytest.approx(0.2)

    with local_server(*secured(*files)) as server:
        asyncio.run(scenario(server))
        events = [entry["event"] for entry in server.log]
        assert "certificates_changed" in events
        assert "certificates_reload_failed" in events


def start(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "streamer.serve", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ,
    )


def test_insecure_settings_do_not_start(office, other):
    certificate, key = office.issue("server")
    _, foreign_key = other.issue("server")
    runs = {
        "is not loopback": ["--listen", "0.0.0.0:0"],
        "give both or neither": ["--tls-certificate", certificate],
        "needs tls_certificate": ["--tls-client-ca", office.ca],
        "No such file": secured(certificate, "/nowhere/server.key"),
        str(foreign_key): secured(certificate, foreign_key),
        "client CA": secured(certificate, key, "--tls-client-ca", key),
    }
    for message, arguments in runs.items():
        listen = [] if "--listen" in arguments else ["--listen", "127.0.0.1:0"]
        done = start(*listen, *arguments)
        assert done.returncode == 2, message
        assert message in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_insecure_serves_plaintext_beyond_loopback():
    with local_server("--listen", "0.0.0.0:0", "--insecure") as server:
        port = server.target.rpartition(":")[2]
        assert classify(f"127.0.0.1:{port}").final


def test_client_command_uses_tls(office, demo_file):
    with local_server(*secured(*office.issue("server"), "--tls-client-ca", office.ca)) as server:
        client = [sys.executable, "-m", "streamer.client", str(demo_file), "--json", "--target"]
        certificate, key = office.issue("client")
        own = ["--ca", office.ca, "--certificate", certificate, "--key", key]
        done = subprocess.run(
            [*client, server.target, *map(str, own)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count('"final": true') == 2
        half = subprocess.run(
            [*client, server.target, "--certificate", str(certificate)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert half.returncode == 2
        assert "give both or neither" in half.stderr


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.pem: No such file"):
        tls(tmp_path / "absent.pem")
