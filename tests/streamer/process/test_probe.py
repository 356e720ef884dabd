"""Health as probes ask for it: over the calls' port, over TLS, and on a port of its own."""

import signal
import subprocess
import sys
import threading
import time

import grpc
import pytest
import trustme

from streamer.process.local_server import local_server
from streamer.process.probe import SERVICE, main, probe
from streamer.rpc import voicecohort_pb2_grpc as pb_grpc


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Of mutual TLS: authority, certificate and key of both sides."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    leaf = authority.issue_cert("127.0.0.1")
    leaf.private_key_and_cert_chain_pem.write_to_path(folder / "both.pem")
    return folder / "ca.pem", folder / "both.pem"


@pytest.fixture(scope="module")
def secured(files):
    ca, both = files
    flags = ("--tls-certificate", both, "--tls-key", both, "--tls-client-ca", ca)
    with local_server(
        *map(str, flags), "--health-listen", "127.0.0.1:0", "--drain-seconds", "20"
    ) as server:
        yield server


def health_address(server):
    return next(str(e["health"]) for e in server.log if e["event"] == "serving")


def test_healthy_server_by_command(server):
    done = subprocess.run(
        [sys.executable, "-m", "streamer.process.probe", server.target],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_unknown_service_is_not_healthy(server, capsys):
    assert main([server.target, "--service", "voicecohort.v9.ClassifierService"]) == 1
    output = capsys.readouterr().err
    assert output.startswith(f"{server.target}: NOT_FOUND")
    assert len(output.splitlines()) == 1


def test_no_server_is_unavailable(free_port, capsys):
    assert main([f"127.0.0.1:{free_port}", "--seconds", "2"]) == 1
    assert "UNAVAILABLE" in capsys.readouterr().err


def test_invalid_flags(capsys):
    for flags in (["--certificate", "x.pem"], ["--ca", "/nowhere/ca.pem"]):
        with pytest.raises(SystemExit) as ended:
            main(["127.0.0.1:1", *flags])
        assert ended.value.code == 2
        assert flags[1] in capsys.readouterr().err


def test_mutual_tls(secured, files, capsys):
    ca, both = map(str, files)
    assert main([secured.target, "--ca", ca, "--certificate", both, "--key", both]) == 0
    assert main([secured.target, "--ca", ca, "--seconds", "2"]) == 1, "no certificate"
    assert main([secured.target, "--seconds", "2"]) == 1, "plaintext"
    capsys.readouterr()


def test_health_port_is_off_by_default(server):
    assert health_address(server) == ""


def test_health_port_serves_health_only_and_drains(
    secured, files, make_line, request_of, log_entry
):
    plain = health_address(secured)
    assert [probe(plain, service) for service in ("", SERVICE)] == ["", ""]
    refused = make_line(plain).run(request_of.config())
    assert refused.code is grpc.StatusCode.UNIMPLEMENTED

    ca, both = (file.read_bytes() for file in files)
    credentials = grpc.ssl_channel_credentials(ca, both, both)
    over = threading.Event()

    def requests():
        yield request_of.config()
        over.wait(30)

    with grpc.secure_channel(secured.target, credentials) as channel:
        call = pb_grpc.ClassifierServiceStub(channel).StreamClassify(requests())
        assert next(call).HasField("started")
        secured.process.send_signal(signal.SIGTERM)
        log_entry(secured, "draining")
        until = time.monotonic() + 10
        while (output := probe(plain)) == "" and time.monotonic() < until:
            time.sleep(0.02)
        assert output == "NOT_SERVING"
        over.set()
        assert [response.prediction.final for response in call] == [True]
    assert secured.process.wait(10) == 0
