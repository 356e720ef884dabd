"""What no server of ours can be cheaper than: gRPC with an empty servicer, and the matrix products.

    python benchmarks/floors.py --calls 400 --seconds 15

The empty servicer runs on the same library, loop and protocol, parses the same messages and
answers a prediction after every update interval, made beforehand; with --trunk-ms on a trunk. The
products run with the same options as the server's student; the step beside them is measured in
turns with them.

JSON keys: ``empty_servicer`` and ``empty_servicer_default`` (with gRPC polling as our server sets
it, and as gRPC comes): CPU-ms per call-second, ``empty_p99_ms``, ``empty_p99_ms_default``,
``calls``, ``chunk_ms``, ``trunk_ms``, ``gemm_fraction`` (ideal over measured CPU time of a step at
batch 32), ``gemm_gflops``, ``gemm_curve`` (see load/gemm.py), ``gemm_model`` (file that they are
of, stepped on the CPU), ``device``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import streamer.process.environment  # noqa: F401 - as our server does, unless the environment says otherwise

# isort: split
import grpc
import uvloop
from load.empty import EmptyServicer, EmptyTrunks
from load.run import Generators, cores, cpu_seconds, on_cores, write_json

from streamer.process import environment as polling
from streamer.process.local_server import local_server
from streamer.rpc import voicecohort_pb2_grpc as pb_grpc

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
GEMM_BATCH = 32
POLLING = {"": polling.POLLING, "_default": ""}
"""GRPC_EXPERIMENTS by the suffix of the figures measured with it."""


async def serve(listen: str, chunk_ms: int) -> None:
    """The empty server, until it is killed; says on standard error where it listens."""
    server = grpc.aio.server()
    pb_grpc.add_ClassifierServiceServicer_to_server(EmptyServicer(chunk_ms), server)
    EmptyTrunks(chunk_ms).add_to(server)
    host = listen.rpartition(":")[0]
    port = server.add_insecure_port(listen)
    await server.start()
    print(json.dumps({"event": "serving", "address": f"{host}:{port}"}), file=sys.stderr)
    await server.wait_for_termination()


def empty_servicer(
    generators: Generators,
    calls: int,
    seconds: float,
    chunk_ms: int,
    mine: set[int],
    *,
    trunk_ms: float = 0.0,
    together: int = 50,
    pollings: Sequence[str] = tuple(POLLING),
) -> dict[str, Any]:
    """CPU-ms per call-second, and p99, of the empty servicer, with each way of polling.

    Args:
        generators: that make the calls.
        calls: at the same time.
        seconds: that are counted.
        chunk_ms: audio in a message.
        mine: cores of the server.
        trunk_ms: see :class:`load.calls.Plan`.
        together: calls that share a connection, and a trunk if they are on one.
        pollings: some of :data:`POLLING`.
    """
    found: dict[str, Any] = {}
    command = (__file__, "--serve", "--chunk-ms", str(chunk_ms))
    for suffix in pollings:
        environment = {polling.POLLING_VARIABLE: POLLING[suffix]}
        with (
            on_cores(mine),
            local_server(command=command, environment=environment, stop_seconds=2.0) as server,
        ):
            pid = server.process.pid
            outcome = generators.run(
                server.target,
                calls,
                seconds,
                chunk_ms=chunk_ms,
                trunk_ms=trunk_ms,
                calls_per_connection=together,
                meter=lambda pid=pid: {"cpu": cpu_seconds(pid)},  # type: ignore[misc]
                title=f"{calls} calls, empty servicer{suffix.replace('_', ', ')}",
            )
        if outcome.lost:
            raise RuntimeError(f"the empty servicer lost calls: {outcome.seen.errors[:1]}")
        found[f"empty_servicer{suffix}"] = outcome.per_call_second(outcome.metered["cpu"])
        found[f"empty_p99_ms{suffix}"] = outcome.figures()["p99_ms"]
    return {**found, "calls": calls, "chunk_ms": chunk_ms, "trunk_ms": trunk_ms}


def gemm(model: Path, mine: set[int], batches: Sequence[int] = BATCHES) -> Mapping[str, Any]:
    """The keys of the module's JSON that begin with ``gemm_``."""
    from load.gemm import gemm_curve  # noqa: PLC0415 - the server process needs no onnx

    with on_cores(mine):
        curve = gemm_curve(model, batches)
    chosen = next((p for p in curve if p["batch"] == GEMM_BATCH), curve[-1])
    return {
        "gemm_fraction": chosen["fraction"],
        "gemm_gflops": chosen["gflops"],
        "gemm_curve": curve,
        "gemm_model": model.name,
    }


def main() -> int:
    """Command line; also the empty server's own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=400, help="at the same time (%(default)s)")
    parser.add_argument("--seconds", type=int, default=15, help="that are counted (%(default)s)")
    parser.add_argument("--chunk-ms", type=int, default=100, help="20 to 200 (%(default)s)")
    parser.add_argument(
        "--trunk-ms",
        type=float,
        default=0.0,
        help="the calls share a trunk, sent on every so many milliseconds (0: a stream each)",
    )
    parser.add_argument(
        "--calls-per-connection", type=int, default=50, help="of one gateway (%(default)s)"
    )
    parser.add_argument("--model", type=Path, help="student (the shipped one in 8 bits)")
    parser.add_argument(
        "--batches", type=int, nargs="+", default=BATCHES, help="blocks in a step (%(default)s)"
    )
    parser.add_argument("--json", type=Path, help="write the result there too")
    parser.add_argument("--serve", action="store_true", help="be the empty server, nothing else")
    parser.add_argument("--listen", default="127.0.0.1:0", help="of --serve (%(default)s)")
    options = parser.parse_args()
    if options.serve:
        uvloop.run(serve(options.listen, options.chunk_ms))
        return 0
    from latency import device_name  # noqa: PLC0415 - the server process draws no pictures

    from streamer.inference.model import CPU_MODEL  # noqa: PLC0415 - nor steps a student

    model = options.model or CPU_MODEL
    mine, theirs = cores()
    with Generators(1, theirs) as generators:
        result = empty_servicer(
            generators,
            options.calls,
            options.seconds,
            options.chunk_ms,
            mine,
            trunk_ms=options.trunk_ms,
            together=options.calls_per_connection,
        )
    result |= gemm(model, mine, options.batches)
    write_json({**result, "device": device_name()}, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
