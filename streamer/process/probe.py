"""Check the health of a server: ``python -m streamer.process.probe HOST:PORT``.

Exit code 0 if the server serves, 1 with one line if not. For health checks of containers and for
scripts without grpc_health_probe (gRPC Health Checking Protocol, grpc.health.v1).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from streamer.process.extras import require

require("python -m streamer.process.probe", "server", "grpc_health")

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from streamer.client.credentials import tls
from streamer.rpc import voicecohort_pb2 as pb

SERVICE = pb.DESCRIPTOR.services_by_name["ClassifierService"].full_name


def probe(
    target: str,
    service: str = SERVICE,
    seconds: float = 3.0,
    credentials: grpc.ChannelCredentials | None = None,
) -> str:
    """Return why a server is not healthy; empty if it is healthy.

    Args:
        target: HOST:PORT.
        service: full name of the service; "" for the whole server.
        seconds: limit for connection and response.
        credentials: for TLS; None for plaintext.
    """
    channel = (
        grpc.insecure_channel(target)
        if credentials is None
        else grpc.secure_channel(target, credentials)
    )
    with channel:
        stub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            status = stub.Check(request, timeout=seconds).status
        except grpc.RpcError as error:
            return f"{error.code().name}: {error.details()}"
    if status == health_pb2.HealthCheckResponse.SERVING:
        return ""
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(status))


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return 0 if healthy, 1 if not, 2 for flags that are not valid."""
    parser = argparse.ArgumentParser(
        prog="python -m streamer.process.probe", description="Check the health of a gRPC server."
    )
    parser.add_argument("target", metavar="HOST:PORT")
    parser.add_argument("--service", default=SERVICE, help='"" is the whole server (%(default)s)')
    parser.add_argument("--seconds", type=float, default=3.0, help="to wait (%(default)s)")
    secure = parser.add_argument_group("TLS", "any of these makes the connection a secure one")
    secure.add_argument("--tls", action="store_true", help="trust gRPC's default authorities")
    secure.add_argument("--ca", type=Path, metavar="PEM", help="trust this authority")
    secure.add_argument("--certificate", type=Path, metavar="PEM", help="use this certificate")
    secure.add_argument("--key", type=Path, metavar="PEM", help="its private key")
    arguments = parser.parse_args(argv)
    files = (arguments.ca, arguments.certificate, arguments.key)
    try:
        credentials = tls(*files) if arguments.tls or any(files) else None
    except ValueError as error:
        parser.error(str(error))
    problem = probe(arguments.target, arguments.service, arguments.seconds, credentials)
    if problem:
        print(f"{arguments.target}: {problem}", file=sys.stderr)  # noqa: T201 - it is the output
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main())
