"""Live calls paced in real time: latency, losses and the server's CPU cost.

    python benchmarks/latency.py --calls 200 --seconds 60

Open loop: every chunk leaves when its audio has ended, however late answers are, so a slow server
cannot slow its own measurement (no coordinated omission). Latency is from the moment a chunk was
due to be sent until the prediction that acknowledges it arrives. The audio is the demo call, each
side by itself, from a different point in every call: about half of it is silence.

JSON keys: ``calls``, ``lost`` (calls without their final prediction), ``errors`` (first few),
``seconds``, ``chunk_ms``, ``predictions``, ``p50_ms``, ``p90_ms``, ``p99_ms``, ``p99_9_ms``,
``max_ms``, ``server_cpu_ms_per_call_s`` (None with --target), ``client_cpu_ms_per_call_s``,
``speech_share``, ``late_sends_ms_p99`` (how late the generator itself was), ``provider``,
``device``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import random
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import soundfile
import uvloop

from streamer.client import Client, Prediction
from streamer.codec import SAMPLE_RATE, Encoding, encode
from streamer.local import LocalServer, local_server

DEMO = Path(__file__).parent.parent / "streamer" / "demo" / "dialogue.wav"
ENCODINGS = (Encoding.MULAW, Encoding.ALAW, Encoding.LINEAR16)
CALLS_PER_CONNECTION = 50


class Record:
    """What one run saw."""

    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.lateness: list[float] = []
        self.errors: list[str] = []
        self.finals = 0
        self.speech_seconds = 0.0
        self.audio_seconds = 0.0


async def live_call(
    client: Client,
    audio: np.ndarray,
    encoding: Encoding,
    options: argparse.Namespace,
    record: Record,
) -> None:
    """One call from config to final prediction, one chunk each ``chunk_ms``."""
    chunk = SAMPLE_RATE * options.chunk_ms // 1000
    due: dict[int, float] = {}
    try:
        async with client.call(encoding=encoding.value) as call:

            async def send() -> None:
                begin = time.perf_counter()
                for index in range(options.seconds * 1000 // options.chunk_ms):
                    start = index * chunk % (len(audio) - chunk)
                    data = encode(audio[start : start + chunk], encoding)
                    when = begin + (index + 1) * options.chunk_ms / 1000
                    await asyncio.sleep(max(0.0, when - time.perf_counter()))
                    record.lateness.append(time.perf_counter() - when)
                    due[index + 1] = when
                    await call.send(data)
                await call.end_of_audio()

            sending = asyncio.create_task(send())
            async for event in call:
                if isinstance(event, Prediction):
                    if event.final:
                        record.finals += 1
                        record.speech_seconds += event.speech_time
                        record.audio_seconds += event.audio_time
                    else:
                        record.latencies.append(time.perf_counter() - due[event.sequence])
            await sending
    except grpc.aio.AioRpcError as error:
        record.errors.append(f"{error.code().name}: {error.details()}")


async def run_calls(target: str, options: argparse.Namespace) -> Record:
    """All calls at once, their starts spread over two update intervals."""
    record = Record()
    sides, _ = soundfile.read(DEMO, dtype="int16", always_2d=True)
    shuffle = random.Random(options.seed)
    async with contextlib.AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(Client(target))
            for _ in range(-(-options.calls // CALLS_PER_CONNECTION))
        ]

        async def one(number: int) -> None:
            await asyncio.sleep(number / options.calls)
            audio = np.roll(sides[:, number % 2], -shuffle.randrange(len(sides)))
            encoding = ENCODINGS[number % len(ENCODINGS)]
            await live_call(clients[number % len(clients)], audio, encoding, options, record)

        await asyncio.gather(*(one(number) for number in range(options.calls)))
    return record


def device_name() -> str:
    """Processor as the system names it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()}, {os.cpu_count()} cores"
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def cpu_seconds(pid: int) -> float:
    """User and system time of a running process, all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(target: str, options: argparse.Namespace, server: LocalServer | None) -> dict[str, Any]:
    """One run as the JSON that the module documents."""
    server_before = cpu_seconds(server.process.pid) if server else 0.0
    own_before = time.process_time()
    record = uvloop.run(run_calls(target, options))
    own = time.process_time() - own_before
    used = cpu_seconds(server.process.pid) - server_before if server else None
    call_seconds = options.calls * options.seconds
    milliseconds = 1000 * np.array(record.latencies or [0.0])
    quantiles = {"p50_ms": 50, "p90_ms": 90, "p99_ms": 99, "p99_9_ms": 99.9, "max_ms": 100}
    serving = next((e for e in server.log if e.get("event") == "serving"), {}) if server else {}
    return {
        "calls": options.calls,
        "lost": options.calls - record.finals,
        "errors": record.errors[:5],
        "seconds": options.seconds,
        "chunk_ms": options.chunk_ms,
        "predictions": len(record.latencies),
        **{key: round(float(np.percentile(milliseconds, q)), 2) for key, q in quantiles.items()},
        "server_cpu_ms_per_call_s": None if used is None else round(1000 * used / call_seconds, 3),
        "client_cpu_ms_per_call_s": round(1000 * own / call_seconds, 3),
        "speech_share": round(record.speech_seconds / max(record.audio_seconds, 1e-9), 3),
        "late_sends_ms_p99": round(1000 * float(np.percentile(record.lateness or [0.0], 99)), 2),
        "provider": serving.get("providers"),
        "device": device_name(),
    }


def main() -> int:
    """Command line; 1 if a call was lost."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=200, help="at the same time (%(default)s)")
    parser.add_argument("--seconds", type=int, default=60, help="length of each (%(default)s)")
    parser.add_argument("--chunk-ms", type=int, default=100, help="20 to 200 (%(default)s)")
    parser.add_argument("--target", help="HOST:PORT of a running server; else one is started")
    parser.add_argument("--model", help="student for the server that is started")
    parser.add_argument("--provider", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--json", type=Path, help="write the result there too")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        server = None
        if not options.target:
            flags = ["--provider", options.provider, "--log-level", "info"]
            flags += ["--max-calls", str(options.calls + 10)]
            flags += ["--model", options.model] if options.model else []
            server = stack.enter_context(local_server(*flags))
        result = measure(options.target or server.target, options, server)  # type: ignore[union-attr]
    text = json.dumps(result, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")
    return 1 if result["lost"] else 0


if __name__ == "__main__":
    sys.exit(main())
